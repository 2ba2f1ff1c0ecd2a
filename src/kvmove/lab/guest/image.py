"""Builds the ledger guest: the kernel out of its Debian package, an initramfs with the C program, and the tools for
the host.

Invariant: a file in the build folder is whole or absent (it is renamed into place), and it is rebuilt when a source
is newer. Installs nothing; the package is downloaded by apt and unpacked into the build folder.
"""

import argparse
import fcntl
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kvmove.errors import CheckFailed
from kvmove.lab.guest.cpio import Entry, archive

KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
)
_GUEST = ("main", "options", "setup", "agent", "report", "heartbeat", "ram", "writer", "sector")
_VERIFY = ("verify", "verify_log", "verify_disk", "sector")
_PREFILL = ("prefill", "sector")
_COMPILE = ("gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


class GuestImage(NamedTuple):
    """What QEMU boots, and the tools that judge and prepare disks."""

    kernel: Path
    initrd: Path
    verify_tool: Path
    prefill_tool: Path


def build(folder: Path = Path("build/guest"), kernel_package: Path | None = None) -> GuestImage:
    """Make everything that is missing or out of date in `folder`. Without `kernel_package` apt downloads one (once).

    :raise CheckFailed: no compiler, no static C library, or no kernel package to be had. What was built stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one builder at a time; closing the file lets the next one in
        return _build(folder, kernel_package)


def _build(folder: Path, kernel_package: Path | None) -> GuestImage:
    image = GuestImage(folder / "vmlinuz", folder / "initrd", folder / "ledger-verify", folder / "ledger-prefill")
    modules = folder / "modules"
    if not (image.kernel.exists() and modules.is_dir()):
        _unpack_kernel(kernel_package or _download_kernel(folder), image.kernel, modules)
    init = folder / "init"
    _compile(_GUEST, init, ("-static",))
    build_tools(folder)
    if is_stale(image.initrd, [init, *modules.iterdir()]):
        put(image.initrd, archive(_entries(init, modules)))
    return image


def build_tools(folder: Path) -> tuple[Path, Path]:
    """Make only the tools for the host, which need no kernel: verify tool and prefill tool.

    :raise CheckFailed: no compiler.
    """
    verify, prefill = folder / "ledger-verify", folder / "ledger-prefill"
    _compile(_VERIFY, verify)
    _compile(_PREFILL, prefill)
    return verify, prefill


def sources() -> Path:
    """The folder of the C sources: beside the package when installed, else in the repository."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "sources", here.parents[4] / "guest"):
        if (folder / "ledger_format.h").exists():
            return folder
    raise CheckFailed("the C sources of the ledger guest are not here", hint="run from a checkout of kvmove")


def is_stale(target: Path, parts: Iterable[Path]) -> bool:
    """Whether a built file is missing, or older than one of what it is made of."""
    return not target.exists() or any(part.stat().st_mtime > target.stat().st_mtime for part in parts)


def put(target: Path, content: bytes) -> None:
    """Make the file at once, whole."""
    partial = target.with_name(target.name + ".part")
    partial.write_bytes(content)
    partial.rename(target)


def _run(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise CheckFailed(f"{command[0]} is not installed", hint="install gcc, libc6-dev, dpkg and apt") from error
    except subprocess.CalledProcessError as error:
        raise CheckFailed(f"{command[0]} failed: {error.stderr.strip()[-500:]}", hint=" ".join(command)) from error
    return done.stdout


def _compile(names: tuple[str, ...], target: Path, flags: tuple[str, ...] = ()) -> None:
    code = sources()
    files = [code / f"{name}.c" for name in names]
    if not is_stale(target, [*files, *code.glob("*.h")]):
        return
    partial = target.with_name(target.name + ".part")
    _run([*_COMPILE, *flags, "-o", str(partial), *map(str, files)])
    partial.rename(target)


def _download_kernel(folder: Path) -> Path:
    depends = _run(["apt-cache", "depends", KERNEL_PACKAGE])
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise CheckFailed(f"apt does not know {KERNEL_PACKAGE}", hint="run apt-get update, or give --kernel-package")
    package = folder / "package"
    package.mkdir(exist_ok=True)
    _run(["apt-get", "download", "-q", found[1]], cwd=package)
    return max(package.glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime)


def _unpack_kernel(package: Path, kernel: Path, modules: Path) -> None:
    tree = kernel.with_name("tree")
    shutil.rmtree(tree, ignore_errors=True)
    _run(["dpkg-deb", "-x", str(package), str(tree)])
    try:
        [image] = tree.glob("boot/vmlinuz-*")
        [library] = tree.glob("lib/modules/*/kernel")
    except ValueError as error:
        raise CheckFailed(f"{package} holds no kernel", hint=f"give the package that {KERNEL_PACKAGE} wants") from error
    shutil.rmtree(modules, ignore_errors=True)
    partial = modules.with_name("modules.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for order, name in enumerate(MODULES):
        module = library / f"{name}.ko"
        if not module.exists():
            raise CheckFailed(f"the kernel of {package.name} has no module {name}")
        shutil.copy(module, partial / f"{order:02}-{module.name}")
    partial.rename(modules)
    shutil.move(image, kernel)
    shutil.rmtree(tree)


def _entries(init: Path, modules: Path) -> list[Entry]:
    entries = [Entry.folder(name) for name in ("dev", "proc", "sys", "modules")]
    entries.append(Entry.console("dev/console"))
    entries.append(Entry.file("init", init.read_bytes(), executable=True))
    entries += [Entry.file(f"modules/{path.name}", path.read_bytes()) for path in sorted(modules.iterdir())]
    return entries


def main() -> None:
    """`python -m kvmove.lab.guest.image [FOLDER] [--kernel-package FILE]`."""
    parser = argparse.ArgumentParser(description="Build the ledger guest.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/guest"))
    parser.add_argument("--kernel-package", type=Path)
    given = parser.parse_args()
    build(given.folder, given.kernel_package)


if __name__ == "__main__":
    main()
