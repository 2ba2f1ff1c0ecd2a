"""The ledger guest with QEMU's own guest agent in it: Debian's program and its libraries, out of their packages.

The kernel takes several archives one after the other as its first root, so this is the common initrd with a second
archive behind it. Installs nothing; apt downloads some 5 MiB of packages, once, and they are unpacked into the build
folder. What the guest does with it is in `guest/agent.c`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kvmove.errors import CheckFailed
from kvmove.lab.commands import run
from kvmove.lab.guest.cpio import Entry, archive
from kvmove.lab.guest.image import GuestImage, is_stale, put

PACKAGES = (
    "qemu-guest-agent", "libc6", "libglib2.0-0", "libnuma1", "libpcre2-8-0", "libudev1", "liburing2",
)  # fmt: skip
_AGENT = "usr/sbin/qemu-ga"
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = (
    "libc.so.6", "libglib-2.0.so.0", "libgmodule-2.0.so.0", "libm.so.6", "libnuma.so.1", "libpcre2-8.so.0",
    "libudev.so.1", "liburing.so.2",
)  # fmt: skip
_LIBRARY_FOLDER = "lib/x86_64-linux-gnu"
_MODULE = "drivers/char/virtio_console.ko"
DOWNLOAD_SECONDS = 300.0


def build_with_agent(image: GuestImage) -> GuestImage:
    """The same guest with an agent. `image` was built into its folder with a downloaded kernel.

    :raise KvmoveError: the packages cannot be had, or lack what they should hold.
    """
    folder = image.initrd.parent
    target = folder / "initrd-agent"
    tree = folder / "agent"
    if not tree.is_dir():
        _unpack(folder, tree)
    if is_stale(target, [image.initrd, tree]):
        put(target, image.initrd.read_bytes() + archive(_entries(tree)))
    return image._replace(initrd=target)


def _unpack(folder: Path, tree: Path) -> None:
    """Make `tree`, whole: the files of all packages, and the kernel's module."""
    kernels = sorted((folder / "package").glob("linux-image-*.deb"))
    if not kernels:
        raise CheckFailed(f"{folder} has no kernel package", hint=f"remove {folder}, and let it be built anew")
    partial = tree.with_name("agent.part")
    shutil.rmtree(partial, ignore_errors=True)
    packages = folder / "agent-packages"
    packages.mkdir(exist_ok=True)
    # apt-get writes into the folder that it is started in.
    run(["env", "-C", str(packages), "apt-get", "download", "-q", *PACKAGES], timeout=DOWNLOAD_SECONDS)
    for package in packages.glob("*.deb"):
        run(["dpkg-deb", "-x", str(package), str(partial)], timeout=DOWNLOAD_SECONDS)
    run(["dpkg-deb", "-x", str(kernels[-1]), str(partial / "kernel")], timeout=DOWNLOAD_SECONDS)
    [module] = (partial / "kernel").glob(f"lib/modules/*/kernel/{_MODULE}")
    shutil.move(module, partial / "module.ko")
    shutil.rmtree(partial / "kernel")
    partial.rename(tree)


def _entries(tree: Path) -> list[Entry]:
    """A module's number puts it behind those of the common image."""
    programs = {_AGENT: tree / _AGENT, _LOADER: _library(tree, Path(_LOADER).name)}
    files = {f"{_LIBRARY_FOLDER}/{name}": _library(tree, name) for name in _LIBRARIES}
    files["modules/90-virtio_console.ko"] = tree / "module.ko"
    return [
        *(Entry.folder(name) for name in ("usr", "usr/sbin", "lib64", "lib", _LIBRARY_FOLDER)),
        *(Entry.file(name, path.read_bytes(), executable=True) for name, path in programs.items()),
        *(Entry.file(name, path.read_bytes()) for name, path in files.items()),
    ]


def _library(tree: Path, name: str) -> Path:
    for folder in (_LIBRARY_FOLDER, f"usr/{_LIBRARY_FOLDER}"):
        if (tree / folder / name).exists():
            return tree / folder / name
    raise CheckFailed(f"none of the packages {', '.join(PACKAGES)} holds {name}")
