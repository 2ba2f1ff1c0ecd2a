"""Who looks on in tests."""

import contextlib
from collections.abc import Callable, Iterator

from kvmove.model.move import MoveCheck
from kvmove.model.task import Task


class Quiet:
    """An audience that remembers what it was shown."""

    def __init__(self) -> None:
        self.plans: list[MoveCheck] = []
        self.percents: list[float] = []

    def say(self, text: str) -> None:
        """Nothing: a test has no audience."""

    def plan(self, checked: MoveCheck) -> None:
        self.plans.append(checked)

    @contextlib.contextmanager
    def watching(self, task: Task) -> Iterator[Callable[[Task], None]]:
        def show(task: Task) -> None:
            if task.progress is not None:
                self.percents.append(task.progress.percent)

        yield show
