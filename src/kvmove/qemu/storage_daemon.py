"""QEMU's storage daemon: serves one image over NBD, so that we can read and write what only QEMU understands.

Invariant: while it runs, and no longer, the image is open: QEMU's lock on it tells others. It dies with the agent that
started it, even one that was killed (the parent-death signal of prctl(2)); what it had not flushed then is lost, which
is as it should be, because nobody was told otherwise.

That signal is sent when the *thread* that started it ends: start it from the agent's main thread, in its event loop.

Not done here: creating the image, reading and writing (`disk.nbd_disk`).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import Self

from kvmove.errors import CheckFailed, MoveFailed, Unreachable
from kvmove.model.vm import DiskDefinition
from kvmove.qemu.disk_nodes import node_options
from kvmove.qemu.instance import last_words
from kvmove.qemu.process import QemuProcess

BINARY = "qemu-storage-daemon"

START_SECONDS = 20.0
END_SECONDS = 60.0
"""It writes the image's tables and waits for the storage."""

_RETRY_SECONDS = 0.02
_NODE = "image"


class StorageDaemon:
    """A daemon that serves the disk's image as the export `disk.name` at `socket`, for several connections."""

    def __init__(self, process: QemuProcess, image: Path, socket: Path) -> None:
        self.image = image
        self.socket = socket
        self._process = process
        self._is_over = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, disk: DiskDefinition, image: Path, socket: Path, *, writable: bool) -> Self:
        """Open `image`, in the disk's format and cache mode, and serve it; ready when this returns.

        `socket` and two files of that name with endings lie in a folder of its own kind: mode 0700, made if need be.

        :raise CheckFailed: the program is not installed.
        :raise MoveFailed: it ended at once, with the daemon's last words: the image is locked, broken, of another
            format. :raise Unreachable: it does not come up. Nothing is left running.
        """
        for program in (BINARY, "setpriv"):
            if shutil.which(program) is None:
                raise CheckFailed(f"{program} is not on this host", hint="Install qemu-system-common and util-linux.")
        socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_files(socket)
        arguments = ["setpriv", "--pdeathsig", "KILL", *command_line(disk, image, socket, writable=writable)]
        daemon = cls(QemuProcess.start(arguments, _log(socket)), image, socket)
        try:
            await daemon._wait_ready()
        except BaseException:
            await daemon._process.end()
            daemon._clear()
            raise
        return daemon

    def is_alive(self) -> bool:
        """Whether it serves the image still."""
        return not self._is_over and self._process.is_alive()

    async def end(self) -> None:
        """Let it write what it holds, close the image and go; returns when it has. May be asked for again.

        :raise MoveFailed: it had ended by itself, or did not end well.
        :raise Unreachable: it did not end in END_SECONDS and was killed, or cannot be killed. After either the image
            is to be trusted only as far as it was flushed.
        """
        if self._is_over:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait_ended()
            if self._process.exit_code:
                code, words = self._process.exit_code, last_words(_log(self.socket))
                raise MoveFailed(f"the storage daemon of {self.image} ended with {code}: {words or 'it said nothing'}")
        except TimeoutError as error:
            await self._process.end()
            raise Unreachable(
                f"the storage daemon of {self.image} did not end within {END_SECONDS:g} s and was killed",
                hint="Look at the host's storage.",
            ) from error
        finally:
            self._clear()

    async def _wait_ready(self) -> None:
        """It writes its pidfile when it serves (storage-daemon/qemu-storage-daemon.c, main)."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while self._process.is_alive():
            if _serving(self.socket) == self._process.pid:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Unreachable(f"the storage daemon of {self.image} does not come up")
            await asyncio.sleep(_RETRY_SECONDS)
        raise MoveFailed(
            f"the storage daemon of {self.image} cannot serve it: {last_words(_log(self.socket))}",
            hint="End what else uses the image; see `qemu-img check`.",
        )

    def _clear(self) -> None:
        self._is_over = True
        self._process.close()
        _remove_files(self.socket)


def command_line(disk: DiskDefinition, image: Path, socket: Path, *, writable: bool) -> list[str]:
    """The argument list of the daemon, program first. Pure. All values go in as JSON: no name can add an option."""
    server = {"addr": {"type": "unix", "path": str(socket)}}
    export = {"type": "nbd", "id": _NODE, "node-name": _NODE, "name": disk.name, "writable": writable}
    nodes = [options | {"read-only": not writable} for options in node_options(_NODE, disk, image)]
    return [
        BINARY,
        *(argument for options in nodes for argument in ("--blockdev", json.dumps(options))),
        "--nbd-server",
        json.dumps(server),
        "--export",
        json.dumps(export | {"allocation-depth": True}),
        "--pidfile",
        str(_pidfile(socket)),
    ]


def _log(socket: Path) -> Path:
    return socket.with_name(f"{socket.name}.log")


def _pidfile(socket: Path) -> Path:
    return socket.with_name(f"{socket.name}.pid")


def _serving(socket: Path) -> int | None:
    """The daemon that serves there by its own word; None while none does."""
    try:
        return int(_pidfile(socket).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _remove_files(socket: Path) -> None:
    for file in (socket, _log(socket), _pidfile(socket)):
        file.unlink(missing_ok=True)
