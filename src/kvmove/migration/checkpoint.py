"""How far a copy of disks is, kept where the next agent of this host finds it, so that it can go on.

    regions       of each disk, one byte each, compressed: 1 is at the destination as it is at the source, but for ...
    generation    ... what the guest has written since this generation of QEMU's records began (qemu.write_records)
    incarnation   of the destination's images (incoming_disks): in another, an image that its daemon wrote is not kept
    steering      what an operator has said of the running move

One file a move beside its journal, replaced whole. It is not made durable: an agent that died is what it is for, and
with the host the guest's QEMU would be gone, and its records with it. An old checkpoint is as right as a new one, as
long as its generation is there; it only knows less.

Invariant: it is gone before anything of the move is undone, and once the disks are copied.
"""

from __future__ import annotations

import base64
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from kvmove.model.strict import Strict

log = logging.getLogger(__name__)


class Steered(Strict):
    """What an operator has said: whoever paused the move (empty: nobody), its cap (bytes/s, 0: none), the longest
    pause of its guest, and whether it may switch over."""

    paused_by: str = ""
    bandwidth: int = 0
    max_downtime_ms: int = 0
    has_word: bool = False


class Checkpoint(Strict):
    """See the file's head. `region_size` in bytes; `regions` are in the order of the plan's disks."""

    region_size: int
    generation: int
    incarnation: str
    regions: tuple[str, ...]
    steered: Steered = Steered()

    @classmethod
    def of(cls, regions: Sequence[bytes], region_size: int, place: tuple[int, str], steered: Steered) -> Self:
        """`regions` one byte each, `place` is generation and incarnation."""
        packed = tuple(base64.b64encode(zlib.compress(states, 1)).decode() for states in regions)
        return cls(
            region_size=region_size, generation=place[0], incarnation=place[1], regions=packed, steered=steered
        )  # fmt: skip

    def copied(self, disk: int) -> bytes:
        """One byte a region. :raise ValueError: the file is damaged."""
        try:
            return zlib.decompress(base64.b64decode(self.regions[disk], validate=True))
        except (zlib.error, IndexError) as error:
            raise ValueError("not the regions of a disk") from error


class CheckpointFile:
    """Of one move; `journal` is its journal's path."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_suffix(".regions")

    def write(self, checkpoint: Checkpoint) -> bool:
        """Replace what is there; False if it could not be: what was there stands."""
        new = self._path.with_suffix(".regions.new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(checkpoint.model_dump_json())
            new.replace(self._path)
        except OSError as error:
            log.warning("how far the copy is could not be written to %s: %s", self._path, error)
            return False
        return True

    def read(self) -> Checkpoint | None:
        """None when there is none that can be read."""
        try:
            return Checkpoint.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s is of no use: %s", self._path, error)
            return None

    def remove(self) -> None:
        """No agent goes on from it any more. What is not there is no error."""
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".regions.new").unlink(missing_ok=True)
