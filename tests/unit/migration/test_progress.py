"""The bar never runs backwards, stays in its bounds and tells no time that does not follow from what was seen."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmove.migration.progress import ProgressMeter
from kvmove.model.move import DiskProgress, MemoryProgress, MoveProgress, NicProgress, Phase
from kvmove.units import GIB, MIB
from tests.support.nouns import move_plan

NOTHING = MemoryProgress()
TOTAL = 3 * GIB + 512 * MIB


def root(copied: int, recopied: int = 0) -> DiskProgress:
    return DiskProgress(name="root", total=1 * GIB, copied=copied, recopied=recopied)


class Update(NamedTuple):
    """Figures as movers give them: any, in any order, now and then nonsense."""

    pause: float
    phase: Phase
    disks: tuple[DiskProgress, ...]
    memory: MemoryProgress
    nics: tuple[NicProgress, ...]


BYTES = st.integers(0, 3 * GIB)
UPDATES = st.builds(
    Update,
    pause=st.floats(-1, 100),
    phase=st.sampled_from(Phase),
    disks=st.lists(
        st.builds(DiskProgress, name=st.sampled_from(["root", "data"]), total=BYTES, copied=BYTES, recopied=BYTES),
        max_size=2,
        unique_by=lambda disk: disk.name,
    ).map(tuple),
    memory=st.builds(MemoryProgress, total=BYTES, transferred=BYTES, remaining=BYTES, dirty_rate=BYTES),
    nics=st.lists(
        st.builds(NicProgress, nic=st.sampled_from(["mig0", "mig1"]), sent=BYTES, streams=st.integers(0, 4)),
        max_size=2,
        unique_by=lambda nic: nic.nic,
    ).map(tuple),
)


@given(updates=st.lists(UPDATES, max_size=30))
@settings(deadline=None)
def test_whatever_the_movers_say_the_bar_goes_forward_and_stays_in_bounds(updates: list[Update]) -> None:
    meter, seconds, before = ProgressMeter(move_plan()), 0.0, MoveProgress(phase=Phase.PREPARING)
    completed = False
    for update in updates:
        seconds += update.pause
        now = meter.update(seconds, update.phase, update.disks, update.memory, update.nics)
        completed |= update.phase is Phase.COMPLETED
        assert before.percent <= now.percent <= 100
        assert (now.percent == 100) is completed
        assert before.bytes_done <= now.bytes_done <= now.bytes_total == TOTAL
        assert before.elapsed_seconds <= now.elapsed_seconds
        assert now.rate >= 0 and all(nic.rate >= 0 for nic in now.nics)
        assert now.eta_seconds is None or now.eta_seconds >= 0
        assert (now.eta_low is None) == (now.eta_high is None) == (now.eta_seconds is None)
        if now.eta_seconds is not None and now.eta_low is not None and now.eta_high is not None:
            assert 0 <= now.eta_low <= now.eta_seconds <= now.eta_high
        assert (now.disks, now.memory) == (update.disks, update.memory)
        before = now


def test_copying_again_holds_the_bar_and_does_not_turn_it_back() -> None:
    meter = ProgressMeter(move_plan())
    first = meter.update(1, Phase.COPYING_DISKS, [root(800 * MIB)], NOTHING, [])
    second = meter.update(2, Phase.COPYING_DISKS, [root(500 * MIB, 300 * MIB)], NOTHING, [])
    third = meter.update(3, Phase.COPYING_DISKS, [root(900 * MIB, 300 * MIB)], NOTHING, [])
    assert first.bytes_done == second.bytes_done == 800 * MIB
    assert third.bytes_done == 900 * MIB
    assert first.percent == second.percent < third.percent


def test_disks_and_memory_weigh_by_their_size() -> None:
    meter = ProgressMeter(move_plan())
    data = DiskProgress(name="data", total=2 * GIB, copied=2 * GIB)
    disks = meter.update(1, Phase.COPYING_DISKS, [root(1 * GIB), data], NOTHING, [])
    assert disks.percent == pytest.approx(97 * 6 / 7, abs=0.1)
    half = MemoryProgress(total=520 * MIB, remaining=260 * MIB)
    memory = meter.update(2, Phase.COPYING_MEMORY, [root(1 * GIB), data], half, [])
    assert memory.bytes_done == 3 * GIB + 256 * MIB
    assert meter.update(3, Phase.SWITCHING_OVER, [], half, []).percent == 98
    assert meter.update(4, Phase.CLEANING_UP, [], half, []).percent == 99
    ended = meter.update(5, Phase.COMPLETED, [], half, [])
    assert (ended.percent, ended.bytes_done, ended.eta_seconds) == (100, TOTAL, 0)


def test_the_rate_is_what_the_nics_send_and_settles_on_it() -> None:
    meter = ProgressMeter(move_plan())
    for second in range(31):
        nics = [
            NicProgress(nic="mig0", sent=second * 100 * MIB, rate=7),
            NicProgress(nic="mig1", sent=second * 10 * MIB),
        ]
        now = meter.update(second, Phase.COPYING_DISKS, [root(0)], NOTHING, nics)
    assert [nic.rate for nic in now.nics] == pytest.approx([100 * MIB, 10 * MIB], rel=0.01)
    assert now.rate == sum(nic.rate for nic in now.nics)


def test_the_average_of_a_nic_is_over_the_time_in_which_it_sent() -> None:
    meter = ProgressMeter(move_plan())
    for second in range(31):
        sent = min(second, 10) * 100 * MIB
        now = meter.update(second, Phase.COPYING_DISKS, [root(0)], NOTHING, [NicProgress(nic="mig0", sent=sent)])
    assert now.nics[0].average == 100 * MIB
    assert now.nics[0].rate < MIB
    assert [(nic.average, nic.rate) for nic in meter.over_all(now.nics)] == [(100 * MIB, 0)]


def test_asking_often_does_not_make_the_rate_jump() -> None:
    meter = ProgressMeter(move_plan())
    rates = []
    for tick in range(1, 2000):
        sent = (tick // 10) * 10 * MIB  # arrives in lumps of 10 ticks of 10 ms
        now = meter.update(tick / 100, Phase.COPYING_DISKS, [], NOTHING, [NicProgress(nic="mig0", sent=sent)])
        rates.append(now.rate)
    assert all(rate == pytest.approx(100 * MIB, rel=0.3) for rate in rates[500:])


def test_a_nic_whose_count_begins_anew_gives_no_negative_rate() -> None:
    meter = ProgressMeter(move_plan())
    for second, sent in ((0, 0), (1, 100), (2, 5), (3, 105)):
        now = meter.update(second, Phase.COPYING_DISKS, [], NOTHING, [NicProgress(nic="mig0", sent=sent)])
        assert now.rate in {0, 100}


def test_the_time_to_go_follows_from_what_was_copied() -> None:
    meter = ProgressMeter(move_plan())
    for second in range(10):
        meter.update(second, Phase.PREPARING, [], NOTHING, [])
    etas = []
    for second in range(8):
        now = meter.update(second + 10, Phase.COPYING_DISKS, [root(second * 128 * MIB)], NOTHING, [])
        etas.append(now.eta_seconds)
    assert etas[:2] == [None, None]
    assert etas[-1] == pytest.approx((TOTAL - 7 * 128 * MIB) / (128 * MIB), abs=0.1)


def test_memory_that_is_dirtied_faster_than_it_is_sent_has_no_time_to_go() -> None:
    meter = ProgressMeter(move_plan())
    memory = MemoryProgress(total=512 * MIB, remaining=200 * MIB, dirty_rate=50 * MIB)
    for second in range(20):
        nic = NicProgress(nic="mig0", sent=second * 100 * MIB)
        now = meter.update(second, Phase.COPYING_MEMORY, [], memory, [nic])
    assert now.eta_seconds == pytest.approx(4, rel=0.05)
    worse = memory.model_copy(update={"dirty_rate": 200 * MIB})
    assert meter.update(20, Phase.COPYING_MEMORY, [], worse, [nic]).eta_seconds is None


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.SWITCHING_OVER, Phase.ABORTING, Phase.ABORTED, Phase.LOST])
def test_no_time_to_go_is_told_where_none_is_known(phase: Phase) -> None:
    meter = ProgressMeter(move_plan())
    for second in range(5):
        now = meter.update(second, phase, [root(second * MIB)], NOTHING, [NicProgress(nic="mig0", sent=second)])
    assert now.eta_seconds is None


def test_a_speed_over_a_moment_is_not_told() -> None:
    meter = ProgressMeter(move_plan())
    for seconds, sent in ((0.0, 0), (0.001, 8 * MIB), (1.0, 10 * MIB)):
        now = meter.update(seconds, Phase.COPYING_DISKS, [], NOTHING, [NicProgress(nic="mig0", sent=sent)])
        assert now.rate in {0, 10 * MIB}


def test_the_band_of_the_time_to_go_is_wider_when_the_speed_changes() -> None:
    def band(pace: list[int]) -> float:
        meter, copied = ProgressMeter(move_plan()), 0
        for second, step in enumerate(pace):
            copied += step * MIB
            now = meter.update(second, Phase.COPYING_DISKS, [root(copied)], NOTHING, [])
        assert now.eta_low and now.eta_high
        return now.eta_high / now.eta_low

    assert band([50] * 10) < 1.5
    assert band([80] * 6 + [20] * 4) > 2 * band([50] * 10)
