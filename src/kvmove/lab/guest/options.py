"""What the ledger guest is told on its kernel's command line, and how its serial log is read for trouble. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface

from kvmove.errors import InvalidInput

MAX_WRITERS = 16
_KERNEL = "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off tsc=reliable"
_TROUBLE = re.compile(
    r"\bOops\b|\bBUG\b|kernel panic|Call Trace|general protection|I/O error|soft lockup|stalls? detected|hung_task"
    r"|ledger: (?:ERROR|CORRUPT)|ledger: t=.* (?:corrupt|errors)=[1-9]",
    re.IGNORECASE,
)


class Mode(StrEnum):
    """What the disk writers do."""

    RANDOM4K = "random4k"
    MIXED = "mixed"
    IDLE = "idle"


class Plant(StrEnum):
    """A fault that the guest makes on purpose, to prove a detector."""

    RAM_CORRUPT = "ram_corrupt"


@dataclass(frozen=True)
class GuestOptions:
    """Options of the guest; `docs/ledger-guest.md` has their meaning. `span` is in bytes, 0 = the whole disk.

    :raise InvalidInput: a value that the guest would not take.
    """

    vm: int = 1
    ip: str = ""
    gateway: str = ""
    recorder: str = ""
    mode: Mode = Mode.RANDOM4K
    span: int = 0
    writers: int = 0
    rate: int = 0
    fill_mib: int = 0
    sweep_seconds: int = 5
    ram_mib: int = 64
    ram_rate: int = 1000
    heartbeat_ms: int = 5
    plant: Plant | None = None

    def __post_init__(self) -> None:
        if not 0 < self.vm < 2**32:
            raise InvalidInput(f"the guest's number {self.vm} is not between 1 and 4294967295")
        if not 0 <= self.writers <= MAX_WRITERS:
            raise InvalidInput(f"{self.writers} writers are more than the guest's {MAX_WRITERS}")
        if self.ip:
            _check_interface(self.ip)

    def command_line(self) -> str:
        """The kernel's command line, for QEMU's `-append`."""
        settings: dict[str, object] = {
            "vm": self.vm,
            "ip": self.ip,
            "gw": self.gateway,
            "recorder": self.recorder,
            "mode": self.mode,
            "span": self.span,
            "writers": self.writers,
            "rate": self.rate,
            "fill": self.fill_mib,
            "sweep": self.sweep_seconds,
            "ram": self.ram_mib,
            "ram_rate": self.ram_rate,
            "heartbeat_ms": self.heartbeat_ms,
            "plant": self.plant or "",
        }
        return " ".join([_KERNEL, *(f"ledger.{name}={value}" for name, value in settings.items() if value != "")])


def _check_interface(ip: str) -> None:
    try:
        IPv4Interface(ip)
    except ValueError as error:
        raise InvalidInput(f"{ip!r} is no address with a prefix; write for example 10.0.0.5/24") from error


def serial_trouble(text: str) -> list[str]:
    """Lines of a serial log that show a fault of the kernel or of the ledger; empty is good."""
    return [line.strip() for line in text.splitlines() if _TROUBLE.search(line)]
