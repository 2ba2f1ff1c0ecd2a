"""The image of a disk as its host finds it, for the plan of a move."""

from kvmove.model.names import Name
from kvmove.model.strict import Strict
from kvmove.model.vm import DiskFormat


class BackingImage(Strict):
    """An image that another rests on: nobody writes to it. `path` as its host has it, `size` of the file in bytes."""

    path: str
    format: DiskFormat
    size: int


class DiskImage(Strict):
    """One disk's image. `backing` are the images that it rests on, nearest first; `snapshots` the names of those inside
    it. `problem` says why it could not be looked at, or what is wrong with it."""

    name: Name
    backing: tuple[BackingImage, ...] = ()
    snapshots: tuple[str, ...] = ()
    problem: str = ""
