"""What a forecast may never do: be shorter for more, be longer for a better machine, or leave its own band."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.migration.forecast import UNSURE, Correction, DiskLoad, Inputs, forecast, memory_rounds
from kvmove.model.forecast import Forecast
from kvmove.model.move import Phase
from kvmove.units import GIB, MIB

RATE = st.floats(1 * MIB, 12 * GIB)
DATA = st.integers(0, 4096 * GIB)
INPUTS = st.builds(
    Inputs,
    disks=st.lists(st.builds(DiskLoad, DATA, RATE, st.sampled_from(["a", "b"])), max_size=4).map(tuple),
    wire=RATE,
    disks_over_wire=st.booleans(),
    write_rate=st.floats(0, 2 * GIB),
    memory=st.one_of(st.none(), st.integers(0, 4096 * GIB)),
    dirty_rate=st.one_of(st.none(), st.floats(0, 8 * GIB)),
    max_downtime_ms=st.integers(10, 60_000),
    starts_qemu=st.booleans(),
    digest_bytes=DATA,
    pressure=st.floats(0, 1),
    doubts=st.dictionaries(st.sampled_from(list(UNSURE)), st.floats(0, 1)),
)
CORRECTIONS = st.dictionaries(
    st.sampled_from([str(phase) for phase in UNSURE]),
    st.builds(Correction, st.floats(0.25, 4), st.one_of(st.none(), st.floats(0.08, 1))),
)
MORE = st.floats(1, 10)
SLACK = 0.002
"""Seconds are told in thousandths."""


def not_shorter(one: Forecast, other: Forecast) -> bool:
    pairs = (
        (one.seconds_low, other.seconds_low),
        (one.seconds, other.seconds),
        (one.seconds_high, other.seconds_high),
    )
    return all(after >= before * (1 - 1e-9) - SLACK for before, after in pairs)


@given(INPUTS, CORRECTIONS)
def test_the_band_holds_the_likely_time_and_nothing_is_below_zero(
    inputs: Inputs, corrections: dict[str, Correction]
) -> None:
    found = forecast(inputs, corrections)
    assert 0 <= found.seconds_low <= found.seconds <= found.seconds_high
    assert found.bytes >= 0
    assert found.downtime_ms >= 0


@given(INPUTS, CORRECTIONS, st.data(), MORE)
def test_more_data_is_never_faster(
    inputs: Inputs, corrections: dict[str, Correction], data: st.DataObject, more: float
) -> None:
    grown = inputs
    if inputs.disks:
        number = data.draw(st.integers(0, len(inputs.disks) - 1))
        disks = list(inputs.disks)
        disks[number] = replace(disks[number], data=round(disks[number].data * more))
        grown = replace(grown, disks=tuple(disks))
    before, after = forecast(inputs, corrections), forecast(grown, corrections)
    assert not_shorter(before, after)
    assert after.bytes >= before.bytes


@given(INPUTS, CORRECTIONS, MORE)
def test_more_memory_is_never_faster(inputs: Inputs, corrections: dict[str, Correction], more: float) -> None:
    grown = replace(inputs, memory=None if inputs.memory is None else round(inputs.memory * more))
    assert not_shorter(forecast(inputs, corrections), forecast(grown, corrections))


@given(INPUTS, CORRECTIONS, MORE)
def test_a_busier_guest_is_never_faster(inputs: Inputs, corrections: dict[str, Correction], more: float) -> None:
    dirty = None if inputs.dirty_rate is None else inputs.dirty_rate * more
    busier = replace(inputs, dirty_rate=dirty, write_rate=inputs.write_rate * more)
    assert not_shorter(forecast(inputs, corrections), forecast(busier, corrections))


@given(INPUTS, CORRECTIONS, MORE)
def test_a_faster_wire_is_never_slower(inputs: Inputs, corrections: dict[str, Correction], more: float) -> None:
    faster = replace(inputs, wire=(inputs.wire or MIB) * more)
    assert not_shorter(forecast(faster, corrections), forecast(inputs, corrections))


@given(INPUTS, CORRECTIONS, MORE)
def test_faster_storage_is_never_slower(inputs: Inputs, corrections: dict[str, Correction], more: float) -> None:
    faster = replace(inputs, disks=tuple(replace(disk, rate=disk.rate * more) for disk in inputs.disks))
    assert not_shorter(forecast(faster, corrections), forecast(inputs, corrections))


@given(INPUTS, CORRECTIONS, st.floats(0, 1))
def test_more_who_wait_for_processors_are_never_faster(
    inputs: Inputs, corrections: dict[str, Correction], pressure: float
) -> None:
    less, more = sorted((inputs.pressure, pressure))
    one, other = (forecast(replace(inputs, pressure=it), corrections) for it in (less, more))
    assert not_shorter(one, other)
    assert other.downtime_ms >= one.downtime_ms


def test_under_pressure_the_copying_is_held_back_by_processors_and_hardly_so_over_a_slow_wire() -> None:
    def longer(wire: int) -> float:
        idle = Inputs(disks=(DiskLoad(1000 * MIB, 10 * GIB),), wire=wire, memory=1000 * MIB)
        one, other = forecast(idle, {}).parts, forecast(replace(idle, pressure=1.0), {}).parts
        return other["copying-disks"] / one["copying-disks"]

    assert longer(20 * MIB) < 1.05
    assert longer(100 * MIB) > 2
    assert longer(1000 * MIB) == pytest.approx(4.5, rel=0.05)


def test_a_wire_that_was_seen_to_carry_more_than_a_small_machines_processors_is_believed() -> None:
    found = forecast(Inputs(disks=(DiskLoad(1000 * MIB, 10 * GIB),), wire=1000 * MIB, memory=1000 * MIB), {})
    assert found.parts["copying-disks"] < 1.5
    assert found.parts["copying-memory"] < 1.5


def test_what_is_not_known_widens_the_band_and_moves_nothing() -> None:
    known = Inputs(wire=100 * MIB, memory=GIB)
    unsure = replace(known, doubts={Phase.COPYING_MEMORY: 0.5})
    one, other = forecast(known, {}), forecast(unsure, {})
    assert one.seconds == other.seconds
    assert one.seconds_high / one.seconds_low < other.seconds_high / other.seconds_low


def test_a_guest_slower_than_the_wire_converges_and_the_time_is_that_of_its_rounds() -> None:
    quiet = memory_rounds(Inputs(wire=100 * MIB, memory=1000 * MIB, dirty_rate=0.0))
    assert quiet.converged
    assert quiet.seconds == pytest.approx(10)
    assert quiet.rest == 0
    busy = memory_rounds(Inputs(wire=100 * MIB, memory=1000 * MIB, dirty_rate=40.0 * MIB))
    assert busy.converged
    assert busy.rest <= 100 * MIB * 0.3
    assert 10 / (1 - 0.4) * 0.9 < busy.seconds < 10 / (1 - 0.4)


def test_no_guest_is_faster_because_it_is_held_back() -> None:
    shares = [number / 50 for number in range(1, 60)]
    seconds = [
        memory_rounds(Inputs(wire=100 * MIB, memory=4 * GIB, dirty_rate=share * 100 * MIB, max_downtime_ms=30)).seconds
        for share in shares
    ]
    assert seconds == sorted(seconds)


def test_a_guest_that_outruns_the_wire_by_far_does_not_converge_and_the_text_says_why() -> None:
    found = forecast(Inputs(wire=1 * MIB, memory=64 * GIB, dirty_rate=2000.0 * MIB, max_downtime_ms=10), {})
    assert found.converges is False
    assert "2.0 GiB/s" in found.why
    assert "1.0 MiB/s" in found.why
    assert "--max-downtime" in found.why


def test_it_is_not_known_whether_memory_converges_that_nobody_sampled() -> None:
    found = forecast(Inputs(wire=100 * MIB, memory=GIB, dirty_rate=None), {})
    assert found.converges is None
    assert "not known" in found.why


def test_half_of_what_the_guest_writes_goes_along() -> None:
    still = forecast(Inputs(disks=(DiskLoad(1000 * MIB, 10 * GIB),), wire=100 * MIB), {})
    writes = forecast(Inputs(disks=(DiskLoad(1000 * MIB, 10 * GIB),), wire=100 * MIB, write_rate=40.0 * MIB), {})
    assert writes.seconds - still.seconds == pytest.approx(1000 / 80 - 10, abs=0.01)
    assert writes.bytes - still.bytes == pytest.approx(12.5 * 20 * MIB, rel=0.01)


def test_past_moves_correct_each_phase_by_itself() -> None:
    inputs = Inputs(disks=(DiskLoad(1000 * MIB, 10 * GIB),), wire=100 * MIB, memory=1000 * MIB)
    plain = forecast(inputs, {})
    slower = forecast(inputs, {Phase.COPYING_MEMORY: Correction(2.0, 0.1)})
    assert slower.seconds - plain.seconds == pytest.approx(plain.parts["copying-memory"], abs=0.01)
    assert slower.parts == plain.parts
