"""The moves that `lab forecast` forecasts and then makes: three guests, each moved in its own ways. Pure.

The moves of a guest follow one another: each begins where the last one ended.
"""

from dataclasses import dataclass

from kvmove.lab.guest.options import Mode
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import LOCAL, SECOND, SHARED, DatastoreSpec, LabSpec
from kvmove.model.move import MoveRequest
from kvmove.model.vm import DiskFormat, Power
from kvmove.units import GIB, MIB

FORECAST_LAB = LabSpec(datastore=DatastoreSpec(size=3 * GIB), shared=True, nics=(40_000_000, 100_000_000))
"""Two migration NICs of unequal speed; a move takes both, or is told which."""

SLOW, FAST = ("mig0",), ("mig1",)
BOTH: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """One move. `away`: to the other host; `power`: how the VM is meanwhile."""

    name: str
    away: bool = True
    datastore: str | None = None
    nics: tuple[str, ...] = BOTH
    encrypt: bool = True
    power: Power = Power.RUNNING

    def request(self, vm: str, other_host: str) -> MoveRequest:
        """What an operator would ask for; `other_host` is the one that the VM is not on."""
        return MoveRequest(
            vm=vm, host=other_host if self.away else None, datastore=self.datastore, nics=self.nics,
            encrypt=self.encrypt,
        )  # fmt: skip


CALM = LedgerVm(
    name="calm", number=1, memory=160 * MIB, disk=64 * MIB, data=32 * MIB, rate=50, ram_mib=16, ram_rate=200
)
BUSY = LedgerVm(
    name="busy", number=2, memory=256 * MIB, disk=256 * MIB, data=128 * MIB, rate=600, ram_mib=48, ram_rate=4000
)
LARGE = LedgerVm(
    name="large", number=3, memory=192 * MIB, disk=512 * MIB, data=320 * MIB, rate=200, ram_mib=16, ram_rate=1000,
    mode=Mode.MIXED, format=DiskFormat.QCOW2,
)  # fmt: skip

CASES: tuple[tuple[LedgerVm, tuple[Way, ...]], ...] = (
    (
        CALM,
        (
            Way("unified, both NICs"),
            Way("unified, the slow NIC, in clear", nics=SLOW, encrypt=False),
            Way("unified, the fast NIC", nics=FAST),
            Way("storage, sharing blocks", away=False, datastore=SECOND),
            Way("storage, to another file system", away=False, datastore=SHARED),
            Way("host, both NICs"),
            Way("host, the slow NIC, in clear", nics=SLOW, encrypt=False),
        ),
    ),
    (
        BUSY,
        (
            Way("unified, both NICs"),
            Way("unified, the slow NIC", nics=SLOW),
            Way("unified, the fast NIC, in clear", nics=FAST, encrypt=False),
            Way("storage, to another file system", away=False, datastore=SHARED),
            Way("host, both NICs, in clear", encrypt=False),
            Way("storage, back from there", away=False, datastore=LOCAL),
            Way("unified, both NICs again"),
        ),
    ),
    (
        LARGE,
        (
            Way("unified, both NICs"),
            Way("unified, the fast NIC, in clear", nics=FAST, encrypt=False),
            Way("storage, within a file system", away=False, datastore=SECOND),
            Way("unified, paused", datastore=LOCAL, power=Power.PAUSED),
            Way("unified, off, both NICs", power=Power.OFF),
            Way("unified, off, the slow NIC", nics=SLOW, power=Power.OFF),
        ),
    ),
)
"""20 moves; within a guest a state once reached stays: running, then paused, then off."""
