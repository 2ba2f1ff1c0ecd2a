"""File systems on a loop device for a test; needs root."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

MAKE = {
    "ext3": ["mkfs.ext3", "-q"],  # mounted by the ext4 driver; knows neither fallocate nor ZERO_RANGE
    "ext4": ["mkfs.ext4", "-q"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
}


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def mounted(kind: str, folder: Path, size: int, *, sector: int = 512) -> Iterator[Path]:
    """A new file system of `size` bytes below `folder`, on a device with sectors of `sector` bytes; gone afterwards."""
    target = folder / "mounted"
    target.mkdir()
    with ExitStack() as undo:
        if kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={size}", "kvmove-test", target)
        else:
            image = folder / "image"
            with image.open("wb") as file:
                file.truncate(size)
            undo.callback(image.unlink)
            device = _run("losetup", "--find", "--show", "--sector-size", str(sector), image)
            undo.callback(_run, "losetup", "--detach", device)
            _run(*MAKE[kind], device)
            _run("mount", device, target)
        undo.callback(_run, "umount", target)
        yield target


def cached(path: Path) -> int:
    """Bytes of `path` in the page cache."""
    return int(_run("fincore", "--bytes", "--noheadings", "--output", "RES", path))
