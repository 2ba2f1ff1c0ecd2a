"""The image of a disk as its host finds it, for the plan of a move."""

from typing import Annotated

from pydantic import Field, StringConstraints

from kvmove.model.names import Name
from kvmove.model.strict import Strict
from kvmove.model.vm import DiskFormat


class BackingImage(Strict):
    """An image that another rests on: nobody writes to it. `path` as its host has it, `size` of the file in bytes."""

    path: str
    format: DiskFormat
    size: int


class DiskImage(Strict):
    """One disk's image. `allocated` is what it takes on storage, in bytes, without the images that it rests on, which
    are `backing`, nearest first; None: not known. `snapshots` are the names of those inside it. `problem` says why it
    could not be looked at, or what is wrong with it."""

    name: Name
    allocated: int | None = None
    backing: tuple[BackingImage, ...] = ()
    snapshots: tuple[str, ...] = ()
    problem: str = ""


class BaseImage(Strict):
    """An image below disks, as a datastore keeps it: under the digest of what a guest reads from it (`disk.digest`), so
    that one is known again wherever it is. `size` of the file in bytes."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    format: DiskFormat
    size: Annotated[int, Field(gt=0)]


class Bases(Strict):
    """What the disks of a move rest on, by the disk's name, lowest first."""

    bases: dict[Name, tuple[BaseImage, ...]] = {}
