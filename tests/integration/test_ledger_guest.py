"""The ledger guest on a real QEMU: what it reports is true, and every fault planted in it or around it is found."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.lab.guest.cpu_sampler import CpuSampler
from kvmove.lab.guest.dual_run import DualRunDetector, Handover
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.guest.options import GuestOptions, Mode, Plant, serial_trouble
from kvmove.lab.guest.prefill import Prefill, prefill
from kvmove.lab.guest.recorder import RecorderProcess
from kvmove.lab.guest.recorder_log import Health, RecorderLog, now_ns
from kvmove.lab.guest.timeline import Window
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from tests.support.ledger_qemu import LedgerQemu, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

_MIB = 1 << 20
_DATA = Prefill(32 * _MIB, seed=9)
_SECOND = 10**9


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return build(Path("build/guest"))


@pytest.fixture
def disk(tmp_path: Path, image: GuestImage) -> Path:
    made = tmp_path / "disk.raw"
    prefill(made, 128 * _MIB, _DATA, image.prefill_tool)
    return made


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[RecorderProcess]:
    with RecorderProcess(("127.0.0.1", 0), tmp_path / "log") as running:
        yield running


def _options(recorder: RecorderProcess, mode: Mode = Mode.RANDOM4K, plant: Plant | None = None) -> GuestOptions:
    return GuestOptions(
        ip="10.0.2.15/24",
        gateway="10.0.2.2",
        recorder=f"10.0.2.2:{recorder.address[1]}",
        mode=mode,
        plant=plant,
        ram_mib=8,
        ram_rate=2000,
    )


def _health(folder: Path) -> Health:
    return RecorderLog(folder).health(1) or Health(0, 0, 0, 0, 0)


def _until_written(folder: Path, more: int) -> None:
    before = _health(folder).writes
    wait_until(lambda: _health(folder).writes >= before + more, f"{more} more writes")


def _until_booted(folder: Path, times: int) -> None:
    wait_until(lambda: len(RecorderLog(folder).boots(1)) >= times, f"boot number {times}")


def _is_complete(folder: Path, writes: int) -> bool:
    """Whether at least `writes` are on record, and each that the guest says was acknowledged; one writer, writes
    only.
    """
    log = RecorderLog(folder)
    recorded = len(log.latencies(1, Window(0, 2**63)))
    return recorded >= writes and recorded == log.last_acknowledged(1)[0]


def _judge(disk: Path, folder: Path, image: GuestImage, number: int = 0) -> Verdict:
    time.sleep(0.3)  # what is under way arrives
    return verify(disk, folder, image.verify_tool, Expect(disk=number, prefill=_DATA))


@pytest.mark.parametrize("mode", [Mode.RANDOM4K, Mode.MIXED])
def test_all_that_the_guest_was_told_is_on_its_disk(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess, mode: Mode
) -> None:
    folder = tmp_path / "log"
    with LedgerQemu(tmp_path / "vm", image, [disk], _options(recorder, mode)) as qemu:
        _until_written(folder, 3000)
        qemu.command("stop")
        time.sleep(0.3)
        assert _judge(disk, folder, image).ok  # of a paused guest
        qemu.command("cont")
        _until_written(folder, 500)
        wait_until(lambda: _health(folder).ram_sweeps > 0, "a sweep of the RAM ledger")
        assert serial_trouble(qemu.serial) == []
    verdict = _judge(disk, folder, image)
    assert verdict.ok, verdict
    assert verdict.acknowledged > 3000
    log = RecorderLog(folder)
    assert log.write_rate(1, log.whole(1)) > 50
    assert len(log.boots(1)) == 1
    assert DualRunDetector(log).violations(1) == []
    health = log.health(1)
    assert health is not None
    assert (health.corrupt_pages, health.io_errors) == (0, 0)
    assert health.ram_sweeps > 0


def test_a_write_that_vanishes_from_the_disk_is_lost(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    with LedgerQemu(tmp_path / "vm", image, [disk], _options(recorder)):
        _until_written(tmp_path / "log", 500)
        shutil.copy(disk, tmp_path / "early.raw")
        _until_written(tmp_path / "log", 500)
    assert _judge(disk, tmp_path / "log", image).ok
    assert _judge(tmp_path / "early.raw", tmp_path / "log", image).lost > 100


def test_a_corrupt_page_in_the_guests_memory_is_reported(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    options = _options(recorder, Mode.IDLE, Plant.RAM_CORRUPT)
    with LedgerQemu(tmp_path / "vm", image, [disk], options) as qemu:
        wait_until(lambda: _health(tmp_path / "log").corrupt_pages > 0, "the planted page is found")
        wait_until(lambda: len(serial_trouble(qemu.serial)) >= 2, "the console says so")
    assert _health(tmp_path / "log").corrupt_pages == 1


def test_reports_survive_a_recorder_that_is_away_for_a_while(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    folder = tmp_path / "log"
    with LedgerQemu(tmp_path / "vm", image, [disk], _options(recorder)) as qemu:
        _until_written(folder, 500)
        recorder.stop()
        time.sleep(2)
        with RecorderProcess(recorder.address, folder):
            _until_written(folder, 500)
            written = _health(folder).writes
            wait_until(lambda: _is_complete(folder, written), "every report has come")
            qemu.command("stop")
            verdict = _judge(disk, folder, image)
    assert verdict.ok
    assert verdict.acknowledged >= written > 1000


def test_a_stop_of_the_vcpus_is_measured_from_outside(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    folder = tmp_path / "log"
    with LedgerQemu(tmp_path / "vm", image, [disk], _options(recorder)) as qemu:
        _until_written(folder, 500)
        time.sleep(1)
        before = now_ns()
        qemu.command("stop")
        stopped = now_ns()
        time.sleep(0.4)
        started = now_ns()
        qemu.command("cont")
        after = now_ns()
        time.sleep(2)
    log = RecorderLog(folder)
    window = Window(before - _SECOND, after + _SECOND)
    stop = log.longest_clock_stop(1, window)
    slack = 30_000_000
    assert started - stopped - slack <= stop.length_ns <= after - before + slack
    assert before - slack <= stop.start_ns <= stopped + slack
    assert log.longest_write_gap(1, window).length_ns >= started - stopped - slack
    assert log.longest_heartbeat_gap(1, window).length_ns >= started - stopped - slack


def test_a_guest_that_is_resumed_on_both_sides_is_found_by_both_signals(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    folder, state, copy = tmp_path / "log", tmp_path / "state", tmp_path / "copy.raw"
    options = _options(recorder)
    handover = Handover("source", "destination")
    with CpuSampler() as sampler, LedgerQemu(tmp_path / "s", image, [disk], options) as source:
        sampler.add("source", source.pid)
        _until_written(folder, 500)
        source.command("stop")
        source.command("migrate", uri=f"exec:cat > {state}")
        wait_until(lambda: source.state() == "postmigrate", "the state is saved")
        shutil.copy(disk, copy)
        with LedgerQemu(tmp_path / "d", image, [copy], options, f"exec:cat {state}") as destination:
            sampler.add("destination", destination.pid)
            wait_until(lambda: destination.state() != "inmigrate", "the state is loaded")
            destination.command("cont")
            _until_written(folder, 500)
            good = DualRunDetector(RecorderLog(folder), sampler.samples)
            assert good.violations(1, handover) == []
            assert _health(folder).corrupt_pages == 0
            source.command("cont")
            time.sleep(2)
    bad = DualRunDetector(RecorderLog(folder), sampler.samples)
    assert {"cpu", "heartbeat"} <= {violation.signal for violation in bad.violations(1, handover)}


def test_a_guest_that_is_moved_while_it_writes_is_whole_and_ran_once(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    folder, options, door = tmp_path / "log", _options(recorder, Mode.MIXED), f"unix:{tmp_path / 'door'}"
    with CpuSampler() as sampler, LedgerQemu(tmp_path / "s", image, [disk], options) as source:
        sampler.add("source", source.pid)
        _until_written(folder, 1000)
        with LedgerQemu(tmp_path / "d", image, [disk], options, door) as destination:
            sampler.add("destination", destination.pid)
            before = now_ns()
            source.command("migrate-set-parameters", **{"max-bandwidth": 10**9})
            source.command("migrate", uri=door)
            wait_until(lambda: destination.state() == "running", "the guest has moved")
            sweeps = _health(folder).ram_sweeps
            wait_until(lambda: _health(folder).ram_sweeps >= sweeps + 2, "all of its memory was checked")
            _until_written(folder, 1000)
            assert source.state() == "postmigrate"
    assert _judge(disk, folder, image).ok
    log = RecorderLog(folder)
    assert DualRunDetector(log, sampler.samples).violations(1, Handover("source", "destination")) == []
    assert _health(folder).corrupt_pages == 0
    window = Window(before, now_ns())
    assert 0 < log.longest_clock_stop(1, window).length_ns < window.end_ns - window.start_ns
    assert len(log.boots(1)) == 1


def test_two_disks_are_judged_over_two_boots_with_a_crash_between(
    tmp_path: Path, image: GuestImage, disk: Path, recorder: RecorderProcess
) -> None:
    folder, second = tmp_path / "log", tmp_path / "second.raw"
    shutil.copy(disk, second)
    for number, mode in enumerate((Mode.MIXED, Mode.RANDOM4K)):
        with LedgerQemu(tmp_path / f"vm{number}", image, [disk, second], _options(recorder, mode)):
            _until_booted(folder, number + 1)
            _until_written(folder, 1500)
    first, other = _judge(disk, folder, image, 0), _judge(second, folder, image, 1)
    assert first.ok, first
    assert other.ok, other
    assert min(first.acknowledged, other.acknowledged) > 1000
    assert first.boots == 2
    assert _judge(disk, folder, image, 1).corrupt > 1000  # the wrong disk
