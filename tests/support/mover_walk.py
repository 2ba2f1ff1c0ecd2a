"""A walk through what can happen to one move's disks, from a seed: the same events each time, on any version of
anything. What can happen is what the Hypothesis machine of `unit/mover/test_dispatcher_model.py` lets happen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.support.mover_model import MoverModel

EVENTS = 40


Event = Callable[[MoverModel, Random], None]


def walk(model: MoverModel, dice: Random, more: Sequence[Event] = ()) -> None:
    """EVENTS events with `model`, `more` kinds of them than usual, and its end; raises what the model raises."""
    events = (*_EVENTS, *more)
    for _ in range(2):
        model.open_stream()
    for _ in range(EVENTS):
        events[dice.randrange(len(events))](model, dice)
        model.check()
    model.finish()


def _extent(model: MoverModel, dice: Random) -> tuple[int, int]:
    disk = dice.randrange(len(model.sources))
    return disk, dice.randrange(model.sources[disk].size)


def _guest_writes(model: MoverModel, dice: Random) -> None:
    length = dice.randint(1, 24)
    model.guest_write(*_extent(model, dice), bytes([dice.randrange(256)]) * length, length)


def _guest_zeroes_or_discards(model: MoverModel, dice: Random) -> None:
    model.guest_write(*_extent(model, dice), None, dice.randint(1, 24), is_trim=dice.random() < 0.5)


def _write_arrives(model: MoverModel, dice: Random) -> None:
    model.arrive(dice.randrange(8))


def _discard_behind_a_burst(model: MoverModel, dice: Random) -> None:
    disk, offset = _extent(model, dice)
    for _ in range(2):
        model.guest_write(disk, offset, bytes([dice.randrange(256)]) * 16, 16)
    model.guest_write(disk, offset, None, 16, is_trim=True)
    while model.arriving:
        model.arrive(0)


def _with_a_living_one(act: Callable[[MoverModel, int], None], most: int = 1) -> Callable[[MoverModel, Random], None]:
    """`act` on a stream that lives, if any, up to `most` times in a row."""

    def event(model: MoverModel, dice: Random) -> None:
        living = model.living()
        if living:
            number = living[dice.randrange(len(living))]
            for _ in range(dice.randint(1, most)):
                act(model, number)

    return event


def _frames_are_applied(model: MoverModel, dice: Random) -> None:
    numbers = sorted(model.streams)
    number = numbers[dice.randrange(len(numbers))]
    for _ in range(dice.randint(1, 8)):
        model.deliver(number)


def _stream_opens(model: MoverModel, dice: Random) -> None:
    if len(model.living()) < 3:
        model.open_stream()


def _stream_is_so_fast(model: MoverModel, dice: Random) -> None:
    living = model.living()
    if living:
        state = model.dispatcher.streams[living[dice.randrange(len(living))]]
        state.pace, state.round_trip = dice.choice([None, 1.0, 20.0, 1000.0]), dice.choice([0.0, 2.0])


def _agent_keeps_a_checkpoint(model: MoverModel, _: Random) -> None:
    model.checkpoint()


def _agent_is_restarted(model: MoverModel, dice: Random) -> None:
    model.restart([(*_extent(model, dice), dice.randrange(256)) for _ in range(dice.randint(0, 3))])


def _time_passes(model: MoverModel, dice: Random) -> None:
    model.tick(dice.choice([0.5, 2.5]))


_EVENTS: tuple[Callable[[MoverModel, Random], None], ...] = (
    _guest_writes,
    _guest_zeroes_or_discards,
    _write_arrives,
    _discard_behind_a_burst,
    _with_a_living_one(MoverModel.send, 8),
    _with_a_living_one(MoverModel.read_ahead, 4),
    _frames_are_applied,
    _with_a_living_one(MoverModel.acknowledge),
    _with_a_living_one(MoverModel.kill_stream),
    _stream_opens,
    _time_passes,
)

PACED: tuple[Event, ...] = (_stream_is_so_fast,)
"""Streams of known and changing speed."""

RESTARTED: tuple[Event, ...] = (_agent_keeps_a_checkpoint, _agent_is_restarted)
"""An agent that dies and goes on."""
