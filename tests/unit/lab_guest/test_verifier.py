"""Every kind of damage that a move could do is planted on a disk, and the verifier must see it; and nothing else."""

import random
from pathlib import Path

import pytest

from kvmove.errors import CheckFailed
from kvmove.lab.guest.datagrams import LOG_NAME
from kvmove.lab.guest.prefill import Prefill, prefill
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from tests.support.ledger_world import SECTOR, LedgerWorld, first_data
from tests.unit.lab_guest.conftest import Tools

_SEED = 7


@pytest.fixture
def world() -> LedgerWorld:
    return LedgerWorld()


def _judge(world: LedgerWorld, folder: Path, tools: Tools, what: Expect | None = None) -> Verdict:
    return verify(world.save(folder), folder, tools.verify, what or Expect())


def test_a_disk_with_all_that_was_acknowledged_is_good(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    for lba in range(0, 800, 8):
        world.write(lba)
    verdict = _judge(world, tmp_path, tools)
    assert verdict.ok
    assert (verdict.acknowledged, verdict.checked) == (100, 800)


def test_a_dropped_acknowledged_write_is_one_lost_write(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(0)
    world.write(64)
    for lba in range(64, 72):
        del world.content[lba]
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.lost_sectors, verdict.corrupt) == (1, 8, 0)
    assert verdict.findings[0].lba == 64
    assert verdict.findings[0].found == "zeros"


def test_a_write_that_is_missing_in_two_places_is_one_lost_write(
    world: LedgerWorld, tmp_path: Path, tools: Tools
) -> None:
    world.write(0, 24)
    world.write(8)
    world.content.clear()
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.lost_sectors) == (2, 24)


def test_a_stale_older_block_is_lost(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(16)
    old = {lba: world.content[lba] for lba in range(16, 24)}
    newer = world.write(16)
    world.content.update(old)
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.corrupt) == (1, 0)
    assert (verdict.findings[0].expected_seq, verdict.findings[0].found) == (newer, "older data")


@pytest.mark.parametrize("byte", [0, 4, 8, 13, 24, 40, 63, 64, 300, 511])
def test_a_changed_byte_is_corrupt_wherever_it_lies(
    world: LedgerWorld, tmp_path: Path, tools: Tools, byte: int
) -> None:
    world.write(8)
    sector = bytearray(world.content[11])
    sector[byte] ^= 0x10
    world.content[11] = bytes(sector)
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.corrupt) == (0, 1)
    assert verdict.findings[0].lba == 11


def test_a_zeroed_block_that_came_back_is_lost(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(32)
    back = {lba: world.content[lba] for lba in range(32, 40)}
    world.zero(32)
    world.content.update(back)
    assert _judge(world, tmp_path, tools).lost == 1


def test_a_torn_acknowledged_write_is_lost(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(32)
    old = dict(world.content)
    world.write(32)
    world.content.update({lba: old[lba] for lba in range(36, 40)})
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.lost_sectors) == (1, 4)


def test_a_torn_write_that_was_not_acknowledged_is_good(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(32)
    old = dict(world.content)
    world.write(32, acknowledged=False)
    world.content.update({lba: old[lba] for lba in range(36, 40)})
    verdict = _judge(world, tmp_path, tools)
    assert verdict.ok
    assert verdict.unacknowledged == 4


def test_a_sector_at_the_wrong_place_is_corrupt(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(0)
    world.content[100] = world.content[3]
    assert _judge(world, tmp_path, tools).corrupt == 1


def test_a_sector_of_another_vm_or_boot_is_corrupt(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(0)
    world.content[100] = LedgerWorld(vm=2).sector(0, 1, 100)
    world.content[101] = LedgerWorld(boot=0xDEAD).sector(0, 1, 101)
    assert _judge(world, tmp_path, tools).corrupt == 2


def test_a_discarded_block_may_be_zero_or_as_before_but_not_older(
    world: LedgerWorld, tmp_path: Path, tools: Tools
) -> None:
    for lba in (0, 8, 16):
        world.write(lba)
    old = dict(world.content)
    world.write(16)
    world.discard(0, done=True)
    world.discard(8, done=False)
    world.discard(16)
    world.content.update({lba: old[lba] for lba in range(16, 24)})
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.findings[0].lba) == (1, 16)


@pytest.mark.parametrize("done", [True, False])
def test_a_zero_that_was_announced_and_not_acknowledged_may_be_done_or_not(
    world: LedgerWorld, tmp_path: Path, tools: Tools, done: bool
) -> None:
    world.write(40)
    world.zero(40, acknowledged=False, done=done)
    assert _judge(world, tmp_path, tools).ok


def test_a_block_that_was_written_after_its_zero_must_not_be_zero(
    world: LedgerWorld, tmp_path: Path, tools: Tools
) -> None:
    world.zero(40)
    world.write(40)
    world.content.clear()
    assert _judge(world, tmp_path, tools).lost == 1


def test_a_lost_report_makes_the_check_weaker_and_not_wrong(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(0)
    world.report()
    world.write(8)
    world.report(lose=True)
    del world.content[8]
    verdict = _judge(world, tmp_path, tools)
    assert verdict.ok
    assert verdict.acknowledged == 1


def test_zeros_are_doubtful_when_the_guest_says_that_reports_are_gone(
    world: LedgerWorld, tmp_path: Path, tools: Tools
) -> None:
    world.write(0)
    world.reports_lost = 3
    del world.content[0]
    verdict = _judge(world, tmp_path, tools)
    assert (verdict.lost, verdict.doubtful, verdict.ok) == (0, 1, False)


def test_reports_that_arrive_late_and_twice_are_taken_in_their_own_order(
    world: LedgerWorld, tmp_path: Path, tools: Tools
) -> None:
    world.write(0)
    world.report()
    world.write(0)
    world.report()
    world.entries = [world.entries[1], world.entries[0], world.entries[1]]
    verdict = _judge(world, tmp_path, tools)
    assert verdict.ok
    assert verdict.acknowledged == 2


def test_a_later_boot_is_newer_whatever_its_sequence_numbers(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    for _ in range(5):
        world.write(0)
    stale = dict(world.content)
    world.reboot()
    world.write(0)
    assert _judge(world, tmp_path, tools).ok
    world.content.update(stale)
    assert _judge(world, tmp_path, tools).lost == 1


def test_after_a_power_cut_only_flushed_writes_must_be_there(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(0)
    world.flush()
    world.write(8)
    durable = Expect(durable_only=True)
    del world.content[8]
    assert _judge(world, tmp_path, tools, durable).ok
    assert _judge(world, tmp_path, tools).lost == 1
    del world.content[0]
    assert _judge(world, tmp_path, tools, durable).lost == 1


def test_first_data_is_judged_where_the_guest_never_wrote(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.content = {lba: first_data(_SEED, lba) for lba in range(1024)}
    world.write(512)
    expect = Expect(prefill=Prefill(1024 * SECTOR, _SEED))
    assert _judge(world, tmp_path, tools, expect).ok
    world.content[3] = first_data(_SEED, 4)
    del world.content[900]
    world.content[1500] = b"\1" * SECTOR
    assert _judge(world, tmp_path, tools, expect).corrupt == 3


def test_first_data_in_place_of_a_write_is_a_lost_write(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.content = {lba: first_data(_SEED, lba) for lba in range(1024)}
    world.write(512)
    world.content.update({lba: first_data(_SEED, lba) for lba in range(512, 520)})
    verdict = _judge(world, tmp_path, tools, Expect(prefill=Prefill(1024 * SECTOR, _SEED)))
    assert (verdict.lost, verdict.findings[0].found) == (1, "first data")


def test_the_prefill_tool_makes_first_data_then_a_hole(tmp_path: Path, tools: Tools) -> None:
    image = tmp_path / "image.raw"
    prefill(image, 1 << 20, Prefill(256 << 10, _SEED), tools.prefill)
    data = image.read_bytes()
    assert len(data) == 1 << 20
    assert all(data[lba * SECTOR : (lba + 1) * SECTOR] == first_data(_SEED, lba) for lba in range(512))
    assert not any(data[256 << 10 :])
    with pytest.raises(CheckFailed):
        prefill(image, 100, Prefill(200, _SEED), tools.prefill)


def test_a_disk_that_was_cut_short_has_lost_writes(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    world.write(0)
    world.write(2000)
    world.save(tmp_path)
    with (tmp_path / "disk.raw").open("r+b") as image:
        image.truncate(1000 * SECTOR)
    assert verify(tmp_path / "disk.raw", tmp_path, tools.verify).lost == 1


def test_a_missing_log_is_an_error_and_not_a_good_disk(world: LedgerWorld, tmp_path: Path, tools: Tools) -> None:
    disk = world.save(tmp_path)
    (tmp_path / LOG_NAME).unlink()
    with pytest.raises(CheckFailed, match="cannot be judged"):
        verify(disk, tmp_path, tools.verify)


def test_no_random_damage_to_acknowledged_sectors_goes_unseen(tmp_path: Path, tools: Tools) -> None:
    dice = random.Random(1)
    for _ in range(30):
        world = LedgerWorld(sectors=256)
        for _ in range(40):
            world.write(dice.randrange(248), dice.randrange(1, 8))
        before = dict(world.content)
        world.write(0, 256)
        damaged = dice.sample(range(256), dice.randrange(1, 20))
        for lba in damaged:
            if lba in before and dice.random() < 0.5:
                world.content[lba] = before[lba]
            elif dice.random() < 0.5:
                del world.content[lba]
            else:
                world.content[lba] = dice.randbytes(SECTOR)
        verdict = _judge(world, tmp_path, tools)
        assert verdict.lost_sectors + verdict.corrupt == len(damaged)
