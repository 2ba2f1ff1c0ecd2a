"""Disk images for tests: what QEMU's own tools say of them."""

import subprocess
from pathlib import Path


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def content(path: Path, image_format: str) -> bytes:
    """What a guest would see of an image, by `qemu-img convert`."""
    raw = path.with_name(f"{path.name}.converted")
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw)
    data = raw.read_bytes()
    raw.unlink()
    return data


def check(path: Path) -> None:
    """The image's tables are in order: nothing leaked, nothing corrupt."""
    run("qemu-img", "check", "-f", "qcow2", path)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512
