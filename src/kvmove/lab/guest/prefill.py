"""Prepares a disk for the ledger guest: random data that can be verified, then a hole."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from kvmove.errors import CheckFailed


class Prefill(NamedTuple):
    """The first `data_bytes` of a disk follow from `seed`; no compressor makes them smaller."""

    data_bytes: int
    seed: int


def prefill(path: Path, size: int, data: Prefill, tool: Path) -> None:
    """Make the raw image `path` of `size` bytes, or replace it. Sizes are whole sectors.

    :raise CheckFailed: the sizes are wrong or the disk is full; the image is then incomplete.
    """
    command = [str(tool), str(path), str(size), str(data.data_bytes), str(data.seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailed(f"{path} could not be filled: {done.stderr.strip()}")
