"""What image a disk has once it has moved, and what of its image now blocks that. Pure.

A disk on a block device is raw and thick. A disk with backing images takes them along if it stays qcow2, and becomes
one image if it does not, or if that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple

from kvmove.migration.findings import blocker
from kvmove.model.finding import Finding
from kvmove.model.host import DatastoreInfo, HostInfo
from kvmove.model.image import BackingImage, DiskImage
from kvmove.model.move import DiskRequest, MoveRequest
from kvmove.model.vm import DiskDefinition, DiskFormat, Provisioning

Images = Mapping[str, DiskImage]
"""By the disk's name; a disk that is not in it is one plain image."""


NO_IMAGES: Images = {}


class NewImage(NamedTuple):
    """What a disk becomes. `backing`: the images that come along. `space` is what it takes at first, in bytes."""

    format: DiskFormat
    provisioning: Provisioning
    backing: tuple[BackingImage, ...] = ()
    space: int = 0


def new_image(request: MoveRequest, disk: DiskDefinition, store: DatastoreInfo, images: Images) -> NewImage:
    """The image that the disk has once it lies on `store`."""
    asked = request.disks.get(disk.name) or DiskRequest()
    form, provisioning = asked.format or request.format, asked.provisioning or request.provisioning
    if store.devices is not None:
        return NewImage(form or DiskFormat.RAW, provisioning or Provisioning.THICK, space=disk.size)
    form, provisioning = form or disk.format, provisioning or disk.provisioning
    image = images.get(disk.name, DiskImage(name=disk.name))
    keeps = form is DiskFormat.QCOW2 and not request.flatten
    space = disk.size
    if provisioning is Provisioning.THIN and image.allocated is not None:
        below = 0 if keeps else sum(it.size for it in image.backing)
        space = min(disk.size, image.allocated + below)
    return NewImage(form, provisioning, image.backing if keeps else (), space)


def moving_image(disk: DiskDefinition, new: NewImage, store: DatastoreInfo, images: Images) -> Iterator[Finding]:
    """What keeps the disk from becoming `new` on `store`."""
    if store.devices is not None and (new.format, new.provisioning) != (DiskFormat.RAW, Provisioning.THICK):
        yield blocker(
            "image-on-device",
            f"disk {disk.name} cannot be {new.provisioning} {new.format} on datastore {store.name}: a disk on a block "
            "device has all its space, and the device's bytes are the disk's",
            "leave out --format and --provisioning, or choose another datastore",
        )
    if new.backing and new.provisioning is Provisioning.THICK:
        yield blocker(
            "image-thick-on-base",
            f"disk {disk.name} rests on other images and cannot be thick: space of its own would hide them",
            "make it thin, or make one image of it with --flatten",
        )
    image = images.get(disk.name)
    if image is not None and image.problem:
        yield blocker(
            "image-broken", f"disk {disk.name}: {image.problem}", "mend the image, with the VM off: qemu-img check"
        )
    if image is not None and image.snapshots:
        yield blocker(
            "image-snapshots",
            f"disk {disk.name} has the internal snapshots {', '.join(image.snapshots)}, which would not come along",
            "delete them, or make images of their own of them, with the VM off: qemu-img snapshot, qemu-img convert",
        )


def staying_image(disk: DiskDefinition, new: NewImage, source: HostInfo, images: Images) -> Iterator[Finding]:
    """What keeps the disk from being used by another host where it is."""
    if (new.format, new.provisioning) != (disk.format, disk.provisioning):
        yield blocker(
            "image-stays",
            f"disk {disk.name} stays where it is, and so cannot become another kind of image",
            "name another datastore for it with --disk, or leave out --format and --provisioning",
        )
    folder = next((store.path for store in source.datastores if store.name == disk.datastore), "/")
    for backing in images[disk.name].backing if disk.name in images else ():
        if not PurePath(backing.path).is_relative_to(folder):
            yield blocker(
                "base-elsewhere",
                f"disk {disk.name} stays on datastore {disk.datastore}, and rests on {backing.path}, which does not",
                "move the disk to another datastore, with what it rests on or with --flatten",
            )


def devices_suffice(sizes: list[int], free: tuple[int, ...]) -> bool:
    """Whether each disk gets a device that is large enough, the smallest first as datastores give them."""
    left = sorted(free)
    for size in sizes:
        fitting = next((device for device in left if device >= size), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return True
