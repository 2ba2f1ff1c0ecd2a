"""What a host must remember of a move when its agent dies in the middle. One file a move, one JSON line a step.

Invariant: a step is on stable storage before what it announces is done (write, fdatasync, and the folder at first), so
an agent that starts again knows at least as much as anyone who acted on its word.

    source       BEGAN  REACHED…  (YIELDED)  ENDED
    destination  PREPARED  WAITING  (CONT_INTENT)  (GIVING_BACK)  ENDED

YIELDED: the destination may have been told to take over; from here the registry alone decides. CONT_INTENT: the guest
may have run at the destination; from here nothing is given back, but what GIVING_BACK says never ran. ENDED holds how
the move ended, for whoever asks. REACHED names the phase, and WAITING says that the disks and the QEMU are there: what
follows from them is nothing if the host itself was restarted, so they are not made durable.

A torn last line (power loss in the middle of a write) is dropped: what it announced was not done. Secrets are never
written here. Deliberately not here: what to do about an unfinished move (recovery).
"""

from __future__ import annotations

import errno
import json
import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Any

from kvmove.errors import InvalidInput
from kvmove.model.move import MovePlan

log = logging.getLogger(__name__)

KEEP_ENDED = 100
"""Ended moves that a host remembers."""


class Step(StrEnum):
    BEGAN = "began"
    REACHED = "reached"
    YIELDED = "yielded"
    PREPARED = "prepared"
    WAITING = "waiting"
    CONT_INTENT = "cont-intent"
    GIVING_BACK = "giving-back"
    PUT_ASIDE = "put-aside"
    ENDED = "ended"


class MoveJournal:
    """The journal of one move on one host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[Step, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.steps[Step(entry["step"])] = entry["facts"]
        except (ValueError, KeyError, TypeError):
            return  # torn

    def write(self, step: Step, facts: dict[str, Any]) -> None:
        """Remember a step; on stable storage when this returns.

        :raise OSError: it is not; then nothing that it announces may be done.
        """
        self._append(step, facts, durable=True)

    def note(self, step: Step, facts: dict[str, Any]) -> None:
        """Remember a step that nothing depends on: it outlives the agent, and not the host. Never raises."""
        try:
            self._append(step, facts, durable=False)
        except OSError as error:
            log.warning("the journal %s could not be written: %s", self.path, error)

    def _append(self, step: Step, facts: dict[str, Any], *, durable: bool) -> None:
        is_new = not self.path.exists()
        line = json.dumps({"step": step, "facts": facts}, separators=(",", ":")).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            entry = b"\n" + line  # a torn line before this one stays alone
            if os.write(descriptor, entry) != len(entry):  # so it is when the file system has become full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            if durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            _sync_folder(self.path.parent)
        self.steps[step] = facts

    def has(self, step: Step) -> bool:
        return step in self.steps

    def plan(self) -> MovePlan:
        """The plan that the move began with.

        :raise InvalidInput: the journal is damaged.
        """
        facts = self.steps.get(Step.BEGAN) or self.steps.get(Step.PREPARED)
        if facts is None:
            raise InvalidInput(f"{self.path} does not say what was planned", hint="look at it, then remove it")
        return MovePlan.model_validate(facts["plan"])


class Journal:
    """All moves that a host remembers; `side` keeps those out of it apart from those into it."""

    def __init__(self, state: Path, side: str) -> None:
        self._folder = state / "journal" / side
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def of(self, move_id: str) -> MoveJournal:
        """The journal of a move, which may be empty yet."""
        if not move_id.replace("-", "").isalnum():
            raise InvalidInput(f"{move_id!r} is no move's name")
        return MoveJournal(self._folder / f"{move_id}.jsonl")

    def all(self) -> list[MoveJournal]:
        """Oldest first."""
        paths = sorted(self._folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return [MoveJournal(path) for path in paths]

    def unfinished(self) -> list[MoveJournal]:
        """Moves that this host has begun or prepared and not seen to their end."""
        return [move for move in self.all() if move.steps and not move.has(Step.ENDED)]

    def forget_old(self) -> list[str]:
        """Keep the last KEEP_ENDED ended moves; the ids of those that are forgotten."""
        ended = [move for move in self.all() if move.has(Step.ENDED)]
        old = ended[:-KEEP_ENDED]
        for move in old:
            move.path.unlink(missing_ok=True)
        return [move.path.stem for move in old]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
