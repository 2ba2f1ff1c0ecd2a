"""Block devices for a lab: loop devices over sparse files of the lab.

Invariant: a device lives no longer than the process that attached it. It is held open and marked to detach itself at
its last close, so the kernel takes it away whatever ends the process; only a death between attaching and marking
leaves one, and `leftovers.sweep` takes that.

Hosts of a lab see the machine's own /dev, so a device has the same path in all of them.
"""

import os
from pathlib import Path

from kvmove.lab.commands import run


class LoopDevices:
    """Those of one lab, until `close`."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def attach(self, image: Path, size: int) -> str:
        """Make the sparse file `image` of `size` bytes, and a block device of it; its path.

        :raise LabFailed: the kernel has no loop device to give. :raise OSError: the file cannot be made.
        """
        with image.open("xb") as file:
            file.truncate(size)
        device = run(["losetup", "--find", "--show", str(image)]).strip()
        try:
            self._held.append(os.open(device, os.O_RDONLY | os.O_CLOEXEC))
        finally:
            run(["losetup", "--detach", device])  # in use: it goes with its last user (Linux loop_clr_fd)
        return device

    def close(self) -> None:
        """The devices go as soon as nobody else uses them. May be called twice."""
        while self._held:
            os.close(self._held.pop())
