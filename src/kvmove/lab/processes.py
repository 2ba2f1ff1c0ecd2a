"""Looking at the machine's processes from outside the hosts, by /proc alone.

A host's processes have two numbers: their own inside the host and the machine's outside. Everything here takes and
returns the machine's. A process that ends while it is looked at is left out, and so is one that root may not look at
here (the init of a container): it is not ours.
"""

from pathlib import Path

PROC = Path("/proc")


def all_pids() -> list[int]:
    """Every process there is now."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def parent(pid: int) -> int | None:
    """The parent of `pid`, None if it has ended."""
    return _status_number(pid, "PPid")


def children(pid: int) -> list[int]:
    """The direct children of `pid`."""
    return [other for other in all_pids() if parent(other) == pid]


def argv(pid: int) -> list[str]:
    """The command line of `pid`; empty if it has ended or is a kernel thread."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")] if raw else []


def has_environment(pid: int, name: str, value: str) -> bool:
    """Whether `pid` was started with the environment variable `name` set to `value`."""
    try:
        return f"{name}={value}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def alive(pid: int) -> bool:
    """Whether `pid` runs: it exists and is no zombie."""
    try:
        status = (PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "\nState:\tZ" not in status


def namespace(pid: int, kind: str) -> str | None:
    """The identity of a namespace of `pid` (`net:[4026532281]`); `kind` as in /proc/PID/ns. None if it has ended."""
    try:
        return str((PROC / str(pid) / "ns" / kind).readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def in_namespace(kind: str, identity: str) -> list[int]:
    """The living processes in the namespace of that identity."""
    return [pid for pid in all_pids() if namespace(pid, kind) == identity and alive(pid)]


def outer_pid(init: int, inner: int) -> int | None:
    """The machine's number of the process that the host of `init` knows as `inner`."""
    identity = namespace(init, "pid")
    if identity is None:
        return None
    for pid in in_namespace("pid", identity):
        if _status_numbers(pid, "NSpid")[-1:] == [inner]:
            return pid
    return None


def outside(init: int, path: Path) -> Path:
    """The path by which a process outside the host of `init` reaches the host's absolute `path`."""
    return PROC / str(init) / "root" / path.relative_to("/")


def _status_numbers(pid: int, key: str) -> list[int]:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    for line in lines:
        if line.startswith(f"{key}:"):
            return [int(number) for number in line.split()[1:]]
    return []


def _status_number(pid: int, key: str) -> int | None:
    numbers = _status_numbers(pid, key)
    return numbers[0] if numbers else None
