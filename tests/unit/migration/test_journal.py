"""The journal: what was written is there after a restart, and a torn end is as if it had not been written."""

from pathlib import Path
from uuid import uuid4

import pytest

from kvmove.errors import InvalidInput
from kvmove.migration.journal import KEEP_ENDED, Journal, Step
from kvmove.model.move import HostRef, MovePlan
from kvmove.model.vm import VmDefinition

PLAN = MovePlan(
    move_id="m-1",
    vm=VmDefinition(name="web", uuid=uuid4(), memory=64 * 2**20),
    source=HostRef(name="h1", control="10.0.0.1:7441"),
    destination=HostRef(name="h2", control="10.0.0.2:7441"),
    disks=(),
    routes=(),
    epoch=3,
)
BEGAN = {"plan": PLAN.model_dump(mode="json")}


def test_steps_are_there_after_a_restart(tmp_path: Path) -> None:
    move = Journal(tmp_path, "outgoing").of("m-1")
    move.write(Step.BEGAN, BEGAN)
    move.write(Step.YIELDED, {"epoch": 3})
    again = Journal(tmp_path, "outgoing").of("m-1")
    assert again.has(Step.YIELDED)
    assert again.plan() == PLAN


def test_a_torn_last_line_was_never_written(tmp_path: Path) -> None:
    move = Journal(tmp_path, "outgoing").of("m-1")
    move.write(Step.BEGAN, BEGAN)
    with move.path.open("ab") as file:
        file.write(b'\n{"step":"yielded","fac')
    again = Journal(tmp_path, "outgoing").of("m-1")
    assert again.has(Step.BEGAN)
    assert not again.has(Step.YIELDED)
    again.write(Step.ENDED, {})
    assert Journal(tmp_path, "outgoing").of("m-1").has(Step.ENDED), "what follows a torn line is read"


def test_only_moves_that_began_and_did_not_end_are_unfinished(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "outgoing")
    journal.of("m-1").write(Step.BEGAN, BEGAN)
    journal.of("m-2").write(Step.BEGAN, BEGAN)
    journal.of("m-2").write(Step.ENDED, {})
    assert [move.path.stem for move in journal.unfinished()] == ["m-1"]


def test_old_moves_are_forgotten_and_unfinished_ones_never(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "outgoing")
    journal.of("first").write(Step.BEGAN, BEGAN)
    for number in range(KEEP_ENDED + 5):
        journal.of(f"m-{number}").write(Step.ENDED, {})
    assert len(journal.forget_old()) == 5
    assert len(journal.all()) == KEEP_ENDED + 1
    assert journal.of("first").has(Step.BEGAN)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        Journal(tmp_path, "outgoing").of(name)


def test_a_note_is_there_after_a_restart_of_the_agent_and_the_last_one_counts(tmp_path: Path) -> None:
    move = Journal(tmp_path, "outgoing").of("m-1")
    move.write(Step.BEGAN, BEGAN)
    move.note(Step.REACHED, {"phase": "copying-disks"})
    move.note(Step.REACHED, {"phase": "copying-memory"})
    again = Journal(tmp_path, "outgoing").of("m-1")
    assert again.steps[Step.REACHED] == {"phase": "copying-memory"}


def test_a_note_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    move = Journal(tmp_path, "outgoing").of("m-1")
    move.path.mkdir()
    move.note(Step.REACHED, {"phase": "copying-disks"})
    assert not move.has(Step.REACHED)
