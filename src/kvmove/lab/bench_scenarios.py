"""What the benchmark runs: scenarios and sides, by the names that its result has. Pure.

Rates are bytes a second. `limit` is after how many times the wire's own time a side that does not end is given up: the
default of libvirt and plain QEMU never end under a write load.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kvmove.errors import NotFound
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.units import GIB, MIB

GIGABIT = 125_000_000
UNSHAPED = 0

WIRE_TIMES = 3.0
SPARE_SECONDS = 15.0
SYNC_TIMES = 12.0

BENCH_VM = LedgerVm(memory=512 * MIB, disk=2 * GIB, data=GIB)


class Side(StrEnum):
    """Who moves the guest; WIRE moves none, but says what the NICs carry. KVMOVE alone encrypts."""

    KVMOVE = "kvmove"
    KVMOVE_PLAIN = "kvmove_plain"
    LIBVIRT_DEFAULT = "libvirt_default"
    LIBVIRT_SYNC = "libvirt_sync"
    QEMU = "qemu"
    WIRE = "wire"


SIDE_NAMES = {
    Side.KVMOVE: "kvmove, encrypted",
    Side.KVMOVE_PLAIN: "kvmove",
    Side.LIBVIRT_DEFAULT: "libvirt, default",
    Side.LIBVIRT_SYNC: "libvirt, synchronous writes",
    Side.QEMU: "plain QEMU",
    Side.WIRE: "the wire",
}


@dataclass(frozen=True)
class Scenario:
    """A lab and a guest. `round_trip_ms` of the migration NICs."""

    name: str
    nics: tuple[int, ...] = (GIGABIT,)
    round_trip_ms: int = 0
    vm: LedgerVm = BENCH_VM

    def lab(self) -> LabSpec:
        """Folders of this machine as datastores: a file system in a loop device copies every byte once more, on the two
        cores that the guest and all contestants share."""
        folder = DatastoreSpec(kind="folder", size=32 * GIB)
        return LabSpec(nics=self.nics, datastore=folder, rtt_ms=self.round_trip_ms)

    @property
    def nic_names(self) -> tuple[str, ...]:
        return tuple(f"mig{number}" for number in range(len(self.nics)))

    def limit(self, side: Side, wire_seconds: float) -> float:
        """Seconds after which a side is given up."""
        times = SYNC_TIMES if side is Side.LIBVIRT_SYNC else WIRE_TIMES
        return times * wire_seconds + SPARE_SECONDS


SCENARIOS = (
    Scenario("one_nic_write_load"),
    Scenario("two_nics_write_load", nics=(GIGABIT,) * 2),
    Scenario("four_nics_write_load", nics=(GIGABIT,) * 4),
    Scenario("unequal_nics", nics=(GIGABIT, GIGABIT // 4)),
    Scenario("unshaped", nics=(UNSHAPED,)),
    Scenario("rtt_50ms", round_trip_ms=50),
    Scenario("rtt_100ms", round_trip_ms=100),
    Scenario("idle", vm=replace(BENCH_VM, rate=10, ram_rate=10)),
    Scenario(
        "memory_load",
        nics=(GIGABIT // 5,),
        vm=replace(BENCH_VM, disk=GIB, data=256 * MIB, rate=100, ram_mib=192, ram_rate=12_000),
    ),
    Scenario("thin", vm=replace(BENCH_VM, disk=16 * GIB)),
)


def full(scenario: Scenario) -> Scenario:
    """With twice the disk, where the disk is the figure."""
    if scenario.name in ("memory_load", "thin"):
        return scenario
    return replace(scenario, vm=replace(scenario.vm, disk=4 * GIB, data=2 * GIB))


def chosen(words: Sequence[str]) -> tuple[tuple[Scenario, ...], tuple[Side, ...]]:
    """The scenarios and sides that are named; all where none is.

    :raise NotFound: there is none of that name.
    """
    names, sides = {it.name for it in SCENARIOS}, set(Side)
    for word in words:
        if word not in names | sides:
            raise NotFound(
                f"the benchmark has neither a scenario nor a side {word}",
                hint=f"Scenarios: {', '.join(it.name for it in SCENARIOS)}. Sides: {', '.join(Side)}.",
            )
    return (
        tuple(it for it in SCENARIOS if it.name in words) or SCENARIOS,
        tuple(side for side in Side if side in words) or tuple(Side),
    )
