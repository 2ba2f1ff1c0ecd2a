"""Which move the running code works for, so that every log line that it causes can say so.

It is held in context variables: a task that is begun inside `of_move` inherits it, and so does `asyncio.to_thread`. A
thread does not by itself: give it `inherited(work)` in place of `work`. This file logs nothing (see `logs`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

current_move: ContextVar[str] = ContextVar("current_move", default="")
"""The id of the move, which is its task's id; empty where there is none."""

_fields: ContextVar[dict[str, str] | None] = ContextVar("move_fields", default=None)


@contextmanager
def of_move(move_id: str, **fields: str) -> Iterator[None]:
    """What runs inside works for this move. `fields` (vm, src, dst) stand on its log lines too."""
    move = current_move.set(move_id)
    known = _fields.set(dict(fields))
    try:
        yield
    finally:
        _fields.reset(known)
        current_move.reset(move)


def entered_phase(phase: str) -> None:
    """The move of this context is in `phase` from now on, for all that works for it."""
    known = _fields.get()
    if known is not None:
        known["phase"] = phase


def move_fields() -> dict[str, str]:
    """What is known of the move of this context: vm, src, dst, phase. Empty where there is none."""
    return dict(_fields.get() or {})


def inherited(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, to run elsewhere (in threads, any number of them) and still for the move of here and now."""
    context = copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(work, *args, **kwargs)

    return run
