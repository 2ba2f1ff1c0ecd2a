"""What goes wrong below a datastore, done on a lab's host while a move runs; and what must not be left of one.

A bad sector is QEMU's own fault injection (blkdebug) behind a FUSE file that lies where the disk's image lay: the
agent, the VM's QEMU and QEMU's exports all get EIO from an ordinary file. Needs root.
"""

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from kvmove.disk.base_images import FOLDER
from kvmove.disk.datastore import IDENTITY
from kvmove.lab import processes
from kvmove.lab.commands import LabFailed, in_host, run
from kvmove.lab.lab_host import LabHost
from kvmove.lab.spec import LOCAL, SECOND
from tests.support.eventually import eventually
from tests.support.moving_guest import World

DAEMON = "qemu-storage-daemon"


def fill(file: Path) -> None:
    """Leave no block free in its file system."""
    with file.open("wb", buffering=0) as content:
        space = os.fstatvfs(content.fileno())
        os.posix_fallocate(content.fileno(), 0, (space.f_bavail - 64) * space.f_frsize)
        content.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):
            while content.write(bytes(4096)):
                os.fsync(content.fileno())


class LocalStore:
    """The file system of a host's own datastores, to be taken away from it and given back."""

    def __init__(self, there: World, host: LabHost) -> None:
        self._host = host
        self._place = there.lab.folders.datastore(LOCAL)
        self._image = there.lab.folders.host(host.name) / "datastore.img"
        self._aside = there.lab.folders.host_run(host.name) / "aside"

    def _do(self, *command: str | Path) -> None:
        run(in_host(self._host.init, [str(word) for word in command]))

    def unmount(self) -> None:
        """Who has files of it open keeps them; nobody finds it by its path any more."""
        self._aside.mkdir()
        self._do("mount", "--bind", self._place, self._aside)
        self._do("umount", "--lazy", self._place)

    async def mount(self) -> None:
        """Undo of `unmount`."""
        self._do("mount", "--bind", self._aside, self._place)
        self._do("umount", self._aside)

    def break_down(self) -> None:
        """Everything that is asked of it fails from now on, and what was not synced is lost."""
        self._do("xfs_io", "-x", "-c", "shutdown", self._place)

    async def repair(self) -> None:
        """Undo of `break_down`: mount it anew, as soon as nobody has a file of it open any more."""
        self._do("umount", "--lazy", self._place)

        def is_whole() -> bool:
            with contextlib.suppress(LabFailed):
                self._do("mount", "-o", "loop", self._image, self._place)
                try:
                    self._do("ls", self._place / IDENTITY)
                    return True
                except LabFailed:  # the file system that broke down is there still
                    self._do("umount", "--lazy", self._place)
            return False

        await eventually(is_whole)


def daemons(host: LabHost) -> list[int]:
    """The storage daemons that the host's agent runs."""
    words = {pid: processes.argv(pid) for pid in host.pids()}
    return [pid for pid, argv in words.items() if argv and Path(argv[0]).name == DAEMON and "--nbd-server" in argv]


def _partial(host: LabHost) -> list[Path]:
    """What of moves that have not ended lies in the host's own datastores."""
    local = host.datastore_called(LOCAL)
    patterns = ("*/.incoming-*", "*/*.frozen", ".kvmove-new-*", ".kvmove-quarantine/*.gone-*", f"{FOLDER}/.incoming-*")
    return [path for root in (local, local / SECOND) for pattern in patterns for path in root.glob(pattern)]


async def nothing_is_left(there: World, destination: LabHost) -> None:
    """Of a move that was undone: no part of the VM on the destination, no half image, no daemon, no socket anywhere."""

    def left() -> list[str]:
        found = [str(path) for host in there.lab.hosts for path in _partial(host)]
        for host in there.lab.hosts:
            found += [f"daemon {pid} on {host.name}" for pid in daemons(host)]
            found += [str(path) for path in (there.lab.folders.host_run(host.name) / "moves").iterdir()]
        if destination is not there.lab.host("h1"):
            local = destination.datastore_called(LOCAL)
            found += [str(path) for root in (local, local / SECOND) for path in root.glob(str(there.vm.uuid))]
        return found

    try:
        await eventually(lambda: not left())
    except TimeoutError:
        raise AssertionError(left()) from None


@contextlib.asynccontextmanager
async def bad_sector(there: World, host: LabHost, image: Path, offset: int) -> AsyncIterator[Path]:
    """Every read of the 512 bytes at `offset` of the file `image` (as seen from outside the host) fails. The VM must
    be off. Gives the file that holds what is written."""
    folder = there.lab.folders.host(host.name)
    kept = folder / f"kept-{image.name}"
    inside = Path("/") / image.relative_to(f"/proc/{host.init}/root")
    await asyncio.to_thread(run, ["cp", "--sparse=always", str(image), str(kept)])
    file = {"driver": "file", "node-name": "file", "filename": str(kept), "cache": {"direct": True}}
    fault = {"event": "none", "iotype": "read", "errno": 5, "sector": offset // 512, "immediately": False}
    debug = {"driver": "blkdebug", "node-name": "image", "image": "file", "inject-error": [fault]}
    export = {
        "type": "fuse", "id": "image", "node-name": "image", "mountpoint": str(inside), "writable": True,
        "growable": True,
    }  # fmt: skip
    pidfile = folder / "bad-sector.pid"
    words = [DAEMON, "--blockdev", json.dumps(file), "--blockdev", json.dumps(debug)]
    words += ["--export", json.dumps(export), "--pidfile", str(pidfile)]
    process = await asyncio.to_thread(subprocess.Popen, in_host(host.init, words))
    try:
        await eventually(pidfile.exists)
        yield kept
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
