"""What a process reads and writes: the kernel's counters of it, and what of them a piece of work took. Linux alone.

Sockets are not in these counters: they count read(2), write(2) and their kin, copy_file_range(2), and storage.
"""

from collections.abc import Mapping
from pathlib import Path

from kvmove.errors import CheckFailed
from kvmove.lab.results import ProcessIo


def process_io(pid: int) -> ProcessIo:
    """The counters of process `pid` since it started.

    :raise CheckFailed: there is no such process.
    """
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError as error:
        raise CheckFailed(f"the counters of process {pid} cannot be read: {error.strerror}") from error
    counters = dict(line.split(": ") for line in lines)
    return ProcessIo.model_validate({name: int(counters[name]) for name in ProcessIo.model_fields})


def used(before: ProcessIo, after: ProcessIo) -> ProcessIo:
    """What went on between two looks."""
    earlier, later = _bytes(before), _bytes(after)
    return ProcessIo(**{name: later[name] - earlier[name] for name in later})


def beyond_idle(busy: ProcessIo, seconds: float, idle: ProcessIo, idle_seconds: float) -> ProcessIo:
    """`busy`, which took `seconds`, without what an idle process does in that time; never less than nothing."""
    rest = {name: value * seconds / idle_seconds for name, value in _bytes(idle).items()}
    return ProcessIo(**{name: max(0, round(value - rest[name])) for name, value in _bytes(busy).items()})


def _bytes(io: ProcessIo) -> Mapping[str, int]:
    counted: dict[str, int] = io.model_dump()
    return counted
