"""What a lab has left on the machine, and sweeping it away.

The kernel ends a host's processes, devices, mounts and loop devices with its namespaces. This file checks that it
did, and is the way to clean up after a supervisor that was killed. It looks at the whole machine, not at what
the lab believes.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from kvmove.errors import Busy
from kvmove.lab import processes
from kvmove.lab.commands import LabFailed, run
from kvmove.lab.folders import RUN, VAR, LabFolders

SWEEP_WITHIN = 15.0


@dataclass(frozen=True)
class LabRecord:
    """What a supervisor wrote down so that others can find its lab: itself and every host's namespaces."""

    supervisor: int = 0
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def process_spaces(self) -> frozenset[str]:
        return frozenset(spaces["pid"] for spaces in self.namespaces.values() if "pid" in spaces)


def read_record(folders: LabFolders) -> LabRecord:
    """The lab's record; empty when there is none or it is torn."""
    try:
        raw = json.loads(folders.record.read_text())
        return LabRecord(raw["supervisor"], raw["namespaces"])
    except (FileNotFoundError, ValueError, KeyError):
        return LabRecord()


def write_record(folders: LabFolders, record: LabRecord) -> None:
    """Write it in one piece: a reader sees the old record or the new one."""
    new = folders.record.with_suffix(".new")
    new.write_text(json.dumps({"supervisor": record.supervisor, "namespaces": record.namespaces}))
    new.replace(folders.record)


def find(folders: LabFolders, record: LabRecord) -> list[str]:
    """Everything of the lab that is still there, in words; empty when nothing is."""
    found = [f"process {pid}: {' '.join(processes.argv(pid))}" for pid in _processes(folders, record)]
    found += [f"namespace {identity}" for identity in _living_namespaces(record)]
    found += [f"mount at {path}" for path in _mounts(folders)]
    found += [f"loop device {device}" for device in _loops(folders)]
    return found + [f"folder {folder}" for folder in (folders.var, folders.run) if folder.exists()]


def sweep(folders: LabFolders, record: LabRecord) -> None:
    """End and remove everything of the lab, and wait until it is gone.

    :raise LabFailed: something would not go; it is named.
    """
    deadline = time.monotonic() + SWEEP_WITHIN
    while time.monotonic() < deadline:
        for pid in _processes(folders, record):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in _mounts(folders):
            run(["umount", "--lazy", point])
        if not _processes(folders, record) and not _loops(folders):
            break
        time.sleep(0.02)
    for path in (folders.var, folders.run):
        shutil.rmtree(path, ignore_errors=True)
    for parent in (VAR, RUN):
        with contextlib.suppress(OSError):
            parent.rmdir()
    left = find(folders, record)
    if left:
        raise LabFailed(f"the lab {folders.name} left behind: {'; '.join(left)}", hint="end these by hand")


def claim(name: str) -> socket.socket:
    """Be the only holder of the lab of that name while the returned socket is open.

    An abstract Unix socket: it leaves no file, and ends with the process that holds it.

    :raise Busy: somebody holds it: the lab is up, or is being built or swept.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0kvmove-lab-{name}")
    except OSError as error:
        lock.close()
        raise Busy(f"the lab {name} is up", hint=f"take it down with `kvmove lab down --name {name}`") from error
    return lock


def sweep_stale(pattern: str) -> None:
    """Sweep every lab whose name matches the glob `pattern` and that nobody holds any more.

    :raise LabFailed: something would not go; it is named.
    """
    for name in sorted({path.name for parent in (VAR, RUN) for path in parent.glob(pattern)}):
        with contextlib.suppress(Busy), contextlib.closing(claim(name)):
            folders = LabFolders(name)
            sweep(folders, read_record(folders))


def _processes(folders: LabFolders, record: LabRecord) -> list[int]:
    """The processes inside the lab's namespaces, and those outside that hold them (`unshare`, but not ourselves)."""
    config_folder = f"{folders.run}/"
    own = {os.getpid(), os.getppid()}
    found = []
    for pid in processes.all_pids():
        if pid in own or not processes.alive(pid):
            continue
        inside = processes.namespace(pid, "pid") in record.process_spaces
        words = processes.argv(pid)
        holds = "kvmove.lab.host_init" in words and any(word.startswith(config_folder) for word in words)
        if inside or holds:
            found.append(pid)
    return found


def _living_namespaces(record: LabRecord) -> list[str]:
    wanted = {identity for spaces in record.namespaces.values() for identity in spaces.values()}
    seen = set()
    for pid in processes.all_pids():
        for kind in ("net", "mnt", "pid", "uts"):
            identity = processes.namespace(pid, kind)
            if identity in wanted and processes.alive(pid):
                seen.add(identity)
    return sorted(seen)


def _mounts(folders: LabFolders) -> list[str]:
    """Mounts under the lab's folders in the machine's own mount namespace, innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [point for point in points if point.startswith((f"{folders.var}/", f"{folders.run}/"))]
    return sorted(inside, key=len, reverse=True)


def _loops(folders: LabFolders) -> list[str]:
    """Loop devices whose file lies in the lab's folder."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(f"{folders.var}/"):
                found.append(f"/dev/{backing.parent.parent.name}")
    return sorted(found)
