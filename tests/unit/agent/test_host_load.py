"""A host's load out of /proc, from figures that are known."""

from pathlib import Path
from uuid import UUID

import pytest

from kvmove.agent.config import LoadConfig
from kvmove.agent.host_load import LoadMeter, parse_cpu, parse_diskstats, processes
from kvmove.model.host import DatastoreInfo
from kvmove.units import GIB, KIB

VM = UUID(int=7)


class Proc:
    """A /proc with one QEMU, whose figures can be set; `now` is the clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        (root / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n")
        (root / "pressure").mkdir()
        (root / "pressure" / "cpu").write_text("some avg10=12.50 avg60=0 avg300=0 total=1\n")
        (root / "42").mkdir()
        argv = ["/usr/bin/qemu-system-x86_64", "-name", "odd ) (name", "-uuid", str(VM), ""]
        (root / "42" / "cmdline").write_bytes("\0".join(argv).encode())
        self.set(0, 0, (0, 0))

    def set(self, busy: int, qemu: int, writes: tuple[int, int]) -> None:
        (self.root / "stat").write_text(f"cpu  {busy} 0 0 1000 50 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0\n")
        fields = ["S", *["0"] * 10, str(qemu), "0", *["0"] * 6, "99", "0", "256", *["0"] * 5]
        (self.root / "42" / "stat").write_text(f"42 (odd ) (name) {' '.join(fields)}")
        number = self.root.stat().st_dev
        major, minor = number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00)
        done, took = writes
        (self.root / "diskstats").write_text(f" {major} {minor} sda 1 2 3 4 {done} 6 7 {took} 9 10 11\n")

    def meter(self, config: LoadConfig) -> LoadMeter:
        return LoadMeter(config, self.root, lambda: self.now)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_the_load_is_that_since_the_last_look(proc: Proc) -> None:
    store = DatastoreInfo(name="local", id=UUID(int=1), path=str(proc.root), size=1, free=1)
    meter = proc.meter(LoadConfig(cpus=4))
    first = meter.measure([store])
    assert (first.cpu_used, first.vms[0].cpu, first.datastores[0].write_ms) == (0.0, 0.0, None)
    proc.now = 2.0
    proc.set(400, 150, (10, 250))
    second = meter.measure([store])
    assert second.cpu_used == pytest.approx(0.5)
    assert (second.vms[0].uuid, second.vms[0].cpu, second.vms[0].memory) == (VM, 0.75, 256 * 4 * KIB)
    assert (second.memory_total, second.memory_used) == (8 * GIB, 2 * GIB)
    assert (second.cpu_pressure, second.memory_pressure) == (0.125, 0.0)
    assert second.datastores[0].write_ms == 25.0


def test_a_host_that_shares_its_kernel_counts_its_own_processes(proc: Proc) -> None:
    meter = proc.meter(LoadConfig(of="processes", cpus=2, memory=GIB))
    meter.measure([])
    proc.now = 1.0
    proc.set(9999, 100, (0, 0))
    load = meter.measure([])
    assert load.cpu_used == pytest.approx(0.5)
    assert (load.memory_total, load.memory_used, load.cpu_pressure) == (GIB, 256 * 4 * KIB, 0.0)


def test_a_process_that_took_over_a_number_is_a_new_one(proc: Proc) -> None:
    meter = proc.meter(LoadConfig(cpus=1))
    proc.set(0, 500, (0, 0))
    meter.measure([])
    (proc.root / "42" / "stat").write_text((proc.root / "42" / "stat").read_text().replace(" 99 ", " 100 "))
    proc.now = 10.0
    assert meter.measure([]).vms[0].cpu == pytest.approx(0.5)


def test_the_kernel_of_this_machine_can_be_read() -> None:
    assert parse_cpu(Path("/proc/stat").read_text()) > 0
    assert processes(Path("/proc"))
    parse_diskstats(Path("/proc/diskstats").read_text())
    LoadMeter(LoadConfig()).measure([])
