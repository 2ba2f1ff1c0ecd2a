"""A QEMU process: started so that it outlives the agent, found again, watched, ended.

A QEMU has its own session, writes to files and holds no descriptor of the agent, so nothing that happens to the agent
reaches it. Its identity is the pid *and* the start time; a pidfd taken once and checked against both stands for that
very process ever after, so a recycled pid is never asked about, never signalled.

Not done here: what the arguments are, and QMP (see `instance`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from kvmove.errors import CheckFailed, Unreachable

_START_TIME = 19  # field 22 of /proc/PID/stat, counted from the field after the command's name


class Identity(NamedTuple):
    """A process beyond doubt, as long as this host is up. `start_ticks` counts clock ticks since the boot."""

    pid: int
    start_ticks: int


class QemuProcess:
    """One QEMU process, alive or ended. `close` gives up the handle, never the process.

    `exit_code` is known (not None) once a child of ours was seen to have ended; a signal's number is negative.
    """

    def __init__(self, identity: Identity, pidfd: int) -> None:
        self.identity = identity
        self.exit_code: int | None = None
        self._pidfd = pidfd
        self._ended = False

    @property
    def pid(self) -> int:
        return self.identity.pid

    @classmethod
    def start(cls, arguments: list[str], log: Path) -> Self:
        """Start `arguments` as a process of its own session; what it prints is appended to `log`.

        :raise CheckFailed: the program cannot be run. Nothing is left.
        """
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"\n$ {shlex.join(arguments)}\n".encode())
            pid = os.posix_spawnp(
                arguments[0],
                arguments,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, descriptor, 1),
                    (os.POSIX_SPAWN_DUP2, descriptor, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        except OSError as error:
            raise CheckFailed(
                f"QEMU ({arguments[0]}) cannot be started: {error.strerror}",
                hint="Install qemu-system-x86 on this host.",
            ) from error
        finally:
            os.close(descriptor)
        return cls(Identity(pid, _start_ticks(pid)), os.pidfd_open(pid))

    @classmethod
    def adopt(cls, pidfile: Path, is_ours: Callable[[list[str]], bool]) -> Self | None:
        """The living process that `pidfile` names, if `is_ours` says so of its arguments; else None."""
        try:
            pid = int(pidfile.read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        try:
            # The pidfd came first: while it says that the process lives, /proc/PID is that process.
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            process = cls(Identity(pid, _start_ticks(pid)), pidfd)
            if process.is_alive() and is_ours(arguments):
                return process
        except (OSError, ValueError):
            pass
        os.close(pidfd)
        return None

    def is_alive(self) -> bool:
        """Whether it runs. A zombie is not alive; it is reaped here if it is our child.

        :raise ValueError: the handle was closed while it was not known to have ended.
        """
        if self._ended:
            return False
        if self._pidfd < 0:
            raise ValueError("the handle of this process was closed")
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):
            return True
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self.pid, os.WNOHANG)
            self.exit_code = os.waitstatus_to_exitcode(status)
        self._ended = True
        return False

    async def wait_ended(self) -> None:
        """Wait until it has ended, without a deadline; give one with `asyncio.timeout`. May be called by several."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        own = os.dup(self._pidfd)
        try:
            loop.add_reader(own, ended.set)
            await ended.wait()
            if self._pidfd >= 0:
                self.is_alive()  # reaps it
        finally:
            loop.remove_reader(own)
            os.close(own)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal this very process; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def end(self, *, patience: float = 5.0) -> None:
        """SIGTERM, after `patience` seconds SIGKILL, and wait until it has ended. SIGCONT goes with both: a stopped
        process would not see SIGTERM.

        :raise Unreachable: it lives `patience` seconds after SIGKILL (stuck in the kernel); it may run on.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.send_signal(number)
            self.send_signal(signal.SIGCONT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.wait_ended()
                    return
        raise Unreachable(
            f"QEMU (pid {self.pid}) does not end, even by SIGKILL",
            hint="It waits for a device in the kernel. Look at the host's storage; restart the host if need be.",
        )

    def close(self) -> None:
        """Give up the handle. The process is not touched."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _start_ticks(pid: int) -> int:
    """Start time of a process (Linux proc(5): field 22 of stat; the name in field 2 may hold blanks and brackets)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[_START_TIME])
