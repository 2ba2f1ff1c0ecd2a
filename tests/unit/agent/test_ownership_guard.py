"""The guard before a guest is let run."""

import pytest

from kvmove.agent.ownership_guard import require_owner, require_right_to_run
from kvmove.errors import Busy, CheckFailed, KvmoveError
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership
from tests.support.samples import WEB1

OWNED = Ownership(vm=WEB1, owner="h1", epoch=3)
MOVING = ownership.begin(OWNED, "m1", "h2")


def test_the_owner_under_the_epoch_that_it_remembers_may_run_the_vm() -> None:
    require_right_to_run("web", "h1", 3, OWNED)


@pytest.mark.parametrize(
    ("host", "epoch", "owned", "error", "words"),
    [
        ("h2", 3, OWNED, Busy, "owned by h1, not by h2"),
        ("h1", 2, OWNED, CheckFailed, "under epoch 2, the registry under 3"),
        ("h1", 4, OWNED, CheckFailed, "under epoch 4, the registry under 3"),
        ("h1", 3, MOVING, Busy, "moves to h2"),
        ("h2", 3, MOVING, Busy, "owned by h1"),
        ("h1", 3, None, CheckFailed, "not in the registry"),
    ],
)
def test_nobody_else_may(host: str, epoch: int, owned: Ownership | None, error: type[KvmoveError], words: str) -> None:
    with pytest.raises(error, match=words):
        require_right_to_run("web", host, epoch, owned)


def test_after_a_commit_only_the_destination_may_and_after_an_abort_only_under_the_new_epoch() -> None:
    committed = ownership.commit(MOVING, "m1", "h2")
    aborted = ownership.abort(MOVING, "m1")
    require_right_to_run("web", "h2", 4, committed)
    require_right_to_run("web", "h1", 4, aborted)
    for host, epoch, record in (("h1", 3, committed), ("h1", 4, committed), ("h1", 3, aborted), ("h2", 4, aborted)):
        with pytest.raises((Busy, CheckFailed)):
            require_right_to_run("web", host, epoch, record)


def test_a_vm_that_moves_is_not_for_its_owner_to_delete() -> None:
    require_owner("web", "h1", OWNED)
    with pytest.raises(Busy, match="moves to h2"):
        require_owner("web", "h1", MOVING)
