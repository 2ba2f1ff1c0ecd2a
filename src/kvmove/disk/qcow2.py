"""qcow2 images as files: made, described, tied to other backing images. What is in them QEMU reads and writes.

All by `qemu-img`, with the format always said and never probed: a guest writes its raw disk, and could write a qcow2
header there that names any file of the host as its backing image.

Invariant: an image that was there is never written over, and a `create` that failed leaves nothing. Blocking.

Deliberately not here: anything of an image's content; images with encryption or with their data in another file.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from kvmove.disk.errors import disk_error
from kvmove.errors import CheckFailed, MoveFailed
from kvmove.model.vm import DiskFormat
from kvmove.units import KIB

BINARY = "qemu-img"

RUN_SECONDS = 600.0
"""Allocating a large image takes its time on storage that has to write it."""

CLUSTER = 128 * KIB
"""With 32 subclusters each a guest's 4 KiB take 4 KiB: a thin disk stays thin, and its tables are as large as with the
usual clusters of 64 KiB."""


class Layer(NamedTuple):
    """An image of a chain. `path` is absolute and has no links in it."""

    path: Path
    format: DiskFormat


class Snapshot(NamedTuple):
    """An internal snapshot; `vm_state_size` is the size in bytes of the memory that was saved with it, or 0."""

    name: str
    vm_state_size: int


class Description(NamedTuple):
    """What an image is. Sizes in bytes; of a raw image `cluster_size` is 0. `backing` is nearest first."""

    virtual_size: int
    cluster_size: int
    extended_l2: bool
    backing: tuple[Layer, ...]
    snapshots: tuple[Snapshot, ...]
    is_dirty: bool
    is_corrupt: bool


def create(
    path: Path, size: int, *, like: Description | None = None, backing: Layer | None = None, thick: bool = False
) -> None:
    """Make an image of `size` bytes that holds nothing: it reads as zeroes, or as `backing`.

    Its clusters are those of `like`, a qcow2 image, if given. `backing` is stored relative to the image's folder, so
    both can be moved together. `thick` takes all of its space now. Its entry is not durable before the folder is.

    :raise CheckFailed: thick and backed at once, or qemu-img is not installed. :raise DiskError: it exists, or the
        folder is not there. :raise MoveFailed: qemu-img failed. Nothing is left in any case.
    """
    if backing is not None and thick:
        raise CheckFailed(
            f"{path}: an image that rests on {backing.path} cannot be thick: allocated space would hide it",
            hint="Make it thin, or flatten the chain.",
        )
    arguments = ["create", "-q", "-f", DiskFormat.QCOW2, "-o", _options(like, thick=thick)]
    if backing is not None:
        arguments += ["-F", backing.format, "-b", _relative(path, backing)]
    _make_empty(path)
    try:
        _run([*arguments, str(path), str(size)])
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def describe(path: Path, image_format: DiskFormat) -> Description:
    """Look at an image and at the chain below it. A QEMU may have them open; then it is how they were lately.

    :raise CheckFailed: a layer that cannot be used safely: without a stated format, of an unknown one, no file of
        this host, with its data elsewhere, or a ring. :raise MoveFailed: not of that format, or unreadable.
    """
    top = _info(Layer(path, image_format))
    data = top.get("format-specific", {}).get("data", {})
    return Description(
        virtual_size=int(top["virtual-size"]),
        cluster_size=int(top.get("cluster-size", 0)),
        extended_l2=bool(data.get("extended-l2", False)),
        backing=tuple(_chain(path, top)),
        snapshots=tuple(Snapshot(str(one["name"]), int(one["vm-state-size"])) for one in top.get("snapshots", [])),
        is_dirty=bool(top.get("dirty-flag", False)),
        is_corrupt=bool(data.get("corrupt", False)),
    )


def rebase_unsafe(path: Path, backing: Layer) -> None:
    """Let `path` rest on `backing`, stored relative to its folder, and change nothing else: the guest sees the same
    only if the old backing image holds the same. Nobody may have the image open.

    :raise MoveFailed: qemu-img failed; it rests on either.
    """
    _run(
        ["rebase", "-q", "-u", "-f", DiskFormat.QCOW2, "-F", backing.format, "-b", _relative(path, backing), str(path)]
    )


def _options(like: Description | None, *, thick: bool) -> str:
    cluster, extended = (like.cluster_size, like.extended_l2) if like is not None else (CLUSTER, True)
    options = {
        "compat": "1.1",
        "cluster_size": str(cluster),
        "extended_l2": "on" if extended else "off",
        # Else QEMU lets XFS allocate 1 MiB at a time (block/file-posix.c): a guest's 4 KiB would take 128.
        "extent_size_hint": "0",
    }
    if thick:
        options["preallocation"] = "falloc"
    return ",".join(f"{name}={value}" for name, value in options.items())


def _make_empty(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise disk_error("create it", path, error) from error


def _relative(path: Path, backing: Layer) -> str:
    """The backing image's name in the header. A colon in its first part would make a protocol of that."""
    name = os.path.relpath(backing.path.resolve(), path.resolve().parent)
    return f"./{name}" if ":" in name else name


def _chain(path: Path, top: dict[str, Any]) -> list[Layer]:
    layers: list[Layer] = []
    seen, above, info = {path.resolve()}, path, top
    while "backing-filename" in info:
        layer = _backing(above, info)
        if layer.path in seen:
            raise CheckFailed(f"{above} rests on {layer.path}, which rests on it", hint="Repair the chain.")
        seen.add(layer.path)
        layers.append(layer)
        above, info = layer.path, _info(layer)
    return layers


def _backing(above: Path, info: dict[str, Any]) -> Layer:
    """The image that `above` rests on."""
    name = str(info.get("full-backing-filename", info["backing-filename"]))
    stated = info.get("backing-filename-format")
    if stated is None:
        remedy = f"qemu-img rebase -u -f qcow2 -F FORMAT -b {info['backing-filename']} {above}"
        raise CheckFailed(
            f"{above} rests on {name} and does not say of what format that is", hint=f"With the VM off: {remedy}"
        )
    if stated not in list(DiskFormat):
        raise CheckFailed(f"{above} rests on {name} of format {stated}", hint="Convert it to raw or qcow2.")
    below = above.resolve().parent / name.removeprefix("file:")
    if not below.is_file():
        raise CheckFailed(f"{above} rests on {name}, which is no file of this host", hint="Bring it here, or flatten.")
    return Layer(below.resolve(), DiskFormat(stated))


def _info(layer: Layer) -> dict[str, Any]:
    """What qemu-img tells of this one image; the one below it is not opened."""
    text = _run(["info", "--output=json", "-U", "-f", layer.format, str(layer.path.absolute())])
    info: dict[str, Any] = json.loads(text)
    if "data-file" in info.get("format-specific", {}).get("data", {}):
        raise CheckFailed(
            f"{layer.path} keeps its data in another file", hint="Convert it: qemu-img convert -f qcow2 -O qcow2."
        )
    return info


def _run(arguments: list[str]) -> str:
    try:
        done = subprocess.run(
            [BINARY, *arguments], capture_output=True, text=True, errors="replace", timeout=RUN_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise CheckFailed(f"{BINARY} is not on this host", hint="Install qemu-utils.") from error
    except subprocess.TimeoutExpired as error:
        raise MoveFailed(f"{BINARY} {arguments[0]} {arguments[-1]} took over {RUN_SECONDS:g} s") from error
    if done.returncode:
        raise MoveFailed(f"{BINARY} cannot {arguments[0]}: {' / '.join(done.stderr.split(chr(10))).strip(' /')}")
    return done.stdout
