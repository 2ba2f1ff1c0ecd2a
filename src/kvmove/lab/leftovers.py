"""What a lab has left on the machine, and sweeping it away.

The kernel ends a host's processes, devices, mounts and loop devices with its namespaces. This file checks that it
did, and is the way to clean up after a supervisor that was killed. It looks at the whole machine, not at what
the lab believes.
"""

import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path

from kvmove.errors import Busy
from kvmove.lab import processes
from kvmove.lab.commands import LabFailed, run
from kvmove.lab.folders import RUN, VAR, LabFolders

MARK = "KVMOVE_LAB"
"""The environment variable that names the lab of a host's init and of all that it starts."""

SWEEP_WITHIN = 15.0


def supervisor_of(folders: LabFolders) -> int:
    """The process that held the lab last; 0 when there is no record of one."""
    try:
        return int(folders.record.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def find(folders: LabFolders) -> list[str]:
    """Everything of the lab that is still there, in words; empty when nothing is."""
    found = [f"process {pid}: {' '.join(processes.argv(pid))}" for pid in _processes(folders.name)]
    found += [f"mount at {path}" for path in _mounts(folders)]
    found += [f"loop device {device}" for device in _loops(folders)]
    return found + [f"folder {folder}" for folder in (folders.var, folders.run) if folder.exists()]


def sweep(folders: LabFolders) -> None:
    """End and remove everything of the lab, and wait until it is gone.

    :raise LabFailed: something would not go; it is named.
    """
    deadline = time.monotonic() + SWEEP_WITHIN
    while time.monotonic() < deadline:
        for pid in _processes(folders.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in _mounts(folders):
            run(["umount", "--lazy", point])
        for device in _loops(folders):
            with contextlib.suppress(LabFailed):  # it went by itself just now
                run(["losetup", "--detach", device])
        if not (_processes(folders.name) or _loops(folders)):
            break
        time.sleep(0.02)
    for path in (folders.var, folders.run):
        shutil.rmtree(path, ignore_errors=True)
    for parent in (VAR, RUN):
        with contextlib.suppress(OSError):
            parent.rmdir()
    left = find(folders)
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
            sweep(LabFolders(name))


def _processes(lab: str) -> list[int]:
    """The hosts of the lab, known by their environment, and whatever runs in their process namespaces.

    Namespaces are not known by their numbers: the kernel gives those of a dead lab to the next one.
    """
    marked = [pid for pid in processes.all_pids() if processes.has_environment(pid, MARK, lab) and processes.alive(pid)]
    spaces = {processes.namespace(pid, "pid") for pid in marked} - {processes.namespace(os.getpid(), "pid"), None}
    inside = [pid for pid in processes.all_pids() if processes.namespace(pid, "pid") in spaces and processes.alive(pid)]
    return sorted({*marked, *inside} - {os.getpid()})


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
