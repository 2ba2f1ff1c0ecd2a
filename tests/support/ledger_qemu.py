"""A QEMU with the ledger guest, started by hand and without any of the product: its judges must not lean on what
they judge.
"""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from kvmove.lab.guest.image import GuestImage
from kvmove.lab.guest.options import GuestOptions

_PATIENCE = 120.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait as long as a busy machine may need."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {_PATIENCE:g} s: {what}")
        time.sleep(0.1)


class LedgerQemu:
    """One emulated machine of one vCPU on `disks`; a context manager. User networking: the host is 10.0.2.2."""

    def __init__(
        self, folder: Path, image: GuestImage, disks: Sequence[Path], options: GuestOptions, incoming: str = ""
    ) -> None:
        self._monitor_path = folder / "qmp"
        self._serial = folder / "serial.log"
        folder.mkdir(exist_ok=True)
        self._command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "size=163776k", "-nodefaults"]
        self._command += ["-name", "ledger,debug-threads=on", "-display", "none", "-no-reboot"]
        self._command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
        self._command += ["-append", options.command_line(), "-serial", f"file:{self._serial}"]
        for disk in disks:
            self._command += ["-drive", f"file={disk},if=virtio,format=raw,cache=none,discard=unmap"]
        self._command += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]
        self._command += ["-qmp", f"unix:{self._monitor_path},server=on,wait=off"]
        if incoming:
            self._command += ["-incoming", incoming]
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor = socket.socket(socket.AF_UNIX)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def serial(self) -> str:
        return self._serial.read_text(errors="replace")

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        wait_until(self._connect, "QEMU's monitor answers")
        self._answers = self._monitor.makefile("r")
        self._answers.readline()
        self.command("qmp_capabilities")
        return self

    def _connect(self) -> bool:
        try:
            self._monitor.connect(str(self._monitor_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._monitor.close()

    def command(self, name: str, **arguments: object) -> dict[str, Any]:
        """Send a command and return its answer."""
        self._monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            answer: dict[str, Any] = json.loads(self._answers.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer

    def state(self) -> str:
        return str(self.command("query-status")["return"]["status"])
