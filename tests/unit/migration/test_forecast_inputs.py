"""From samples to figures: what is known is taken, what is not is guessed, said, and makes the forecast less sure."""

from kvmove.migration.forecast import forecast
from kvmove.migration.forecast_inputs import GUESSED_FILL, GUESSED_WIRE, Seen, inputs_of
from kvmove.model.forecast import DiskSample, Forecast, GuestSample, StorageSample, WireSample
from kvmove.model.image import BackingImage, DiskImage
from kvmove.model.move import HostRef, MovePlan, Phase
from kvmove.model.vm import DiskFormat, Power
from kvmove.units import GIB, MIB
from tests.support.nouns import move_plan

IMAGES = {name: DiskImage(name=name, allocated=size) for name, size in (("root", 300 * MIB), ("data", 700 * MIB))}
GUEST = GuestSample(memory_used=200 * MIB, dirty_rate=5 * MIB, write_rate=2 * MIB, writes=100.0)
WIRE = WireSample(rates={"mig0": 90 * MIB})
STORAGE = StorageSample(disks={"root": DiskSample(rate=400 * MIB), "data": DiskSample(rate=400 * MIB)})
ALL = Seen(IMAGES, GUEST, WIRE, STORAGE)


def storage_plan() -> MovePlan:
    return move_plan().model_copy(update={"destination": HostRef(name="h1", control="192.168.0.1:7441")})


def of(plan: MovePlan, seen: Seen) -> Forecast:
    return forecast(inputs_of(plan, seen), {})


def test_what_was_sampled_is_what_is_reckoned_with() -> None:
    found = inputs_of(move_plan(), ALL)
    assert [disk.data for disk in found.disks] == [300 * MIB, 700 * MIB]
    assert (found.memory, found.dirty_rate, found.write_rate, found.wire) == (
        200 * MIB, 5 * MIB, 2 * MIB, 90 * MIB,
    )  # fmt: skip
    assert not found.doubts
    assert not found.notes


def test_a_nic_is_not_faster_than_it_says() -> None:
    [route] = move_plan().routes
    plan = move_plan().model_copy(update={"routes": (route.model_copy(update={"speed": 50 * MIB}),)})
    assert inputs_of(plan, ALL).wire == 50 * MIB


def test_without_any_sample_there_is_a_forecast_that_says_what_it_does_not_know() -> None:
    plan, nothing = move_plan(), Seen()
    found = inputs_of(plan, nothing)
    assert found.memory == round(512 * MIB * GUESSED_FILL)
    assert found.wire == GUESSED_WIRE
    assert set(found.doubts) == {Phase.COPYING_DISKS, Phase.COPYING_MEMORY}
    blind, seeing = of(plan, nothing), of(plan, ALL)
    assert blind.seconds_high / blind.seconds_low > 1.5 * seeing.seconds_high / seeing.seconds_low
    assert blind.converges is None
    for words in ("what the wire carries", "how much memory", "how much the guest writes", "how much data disk root"):
        assert words in blind.why


def test_a_vm_that_stands_still_changes_nothing_and_is_not_asked() -> None:
    paused = inputs_of(move_plan().model_copy(update={"power": Power.PAUSED}), Seen(IMAGES, None, WIRE, STORAGE))
    assert (paused.dirty_rate, paused.write_rate) == (0.0, 0.0)
    off = inputs_of(move_plan().model_copy(update={"power": Power.OFF}), Seen(IMAGES, None, WIRE, STORAGE))
    assert off.memory is None
    assert not off.starts_qemu
    assert not off.doubts


def test_disks_that_share_blocks_have_nothing_to_copy() -> None:
    sharing = StorageSample(disks={name: DiskSample(shares_blocks=True) for name in IMAGES})
    found = of(storage_plan(), Seen(IMAGES, GUEST, None, sharing))
    assert found.bytes < MIB
    assert found.seconds < 1
    assert found.converges
    copied = of(storage_plan(), Seen(IMAGES, GUEST, None, STORAGE))
    assert copied.bytes >= 1000 * MIB
    assert copied.seconds > found.seconds + 2


def test_a_move_within_a_host_needs_no_wire() -> None:
    found = inputs_of(storage_plan(), Seen(IMAGES, GUEST, None, STORAGE))
    assert found.wire is None
    assert "wire" not in " ".join(found.notes)


def test_images_below_a_disk_come_along() -> None:
    below = BackingImage(path="/b", format=DiskFormat.RAW, size=GIB)
    images = {**IMAGES, "root": IMAGES["root"].model_copy(update={"backing": (below,)})}
    assert inputs_of(move_plan(), Seen(images, GUEST, WIRE, STORAGE)).disks[0].data == 300 * MIB + GIB


def test_on_a_busy_host_every_phase_is_longer_and_less_sure_and_the_host_is_named() -> None:
    busy = GUEST.model_copy(update={"pressure": 0.9})
    idle, loaded = of(move_plan(), ALL), of(move_plan(), Seen(IMAGES, busy, WIRE, STORAGE))
    assert all(loaded.parts[part] > idle.parts[part] for part in idle.parts)
    assert loaded.seconds_high / loaded.seconds_low > idle.seconds_high / idle.seconds_low
    assert "h1 is busy: 90 %" in loaded.why
    assert "busy" not in idle.why
