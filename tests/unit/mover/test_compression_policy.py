"""When bulk data is compressed: a table of looks, and what holds in any order of them."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.model.terms import Compress
from kvmove.mover.compression_policy import (
    FIRST_REST,
    IDLE_ENOUGH,
    LOOKS,
    MOST_REST,
    SAMPLES,
    CompressionPolicy,
    Reading,
    State,
)
from kvmove.units import MIB

WAITING = Reading(wire_share=0.9, idle_share=0.6, frames=0, ratio=1.0, rate=10 * MIB)
"""The network is waited for, and there is processor to spare."""

GOOD = replace(WAITING, frames=SAMPLES, ratio=0.4)
RANDOM = replace(WAITING, frames=SAMPLES, ratio=1.0)
FASTER = replace(GOOD, rate=20 * MIB)


def auto() -> CompressionPolicy:
    return CompressionPolicy(Compress.AUTO, understood=True)


def looked(policy: CompressionPolicy, *readings: Reading) -> State:
    for second, reading in enumerate(readings):
        policy.look(float(second), reading)
    return policy.state


@pytest.mark.parametrize(
    ("readings", "state"),
    [
        ((), State.OFF),
        ((WAITING,), State.TRYING),
        ((replace(WAITING, wire_share=0.4),), State.OFF),
        ((replace(WAITING, idle_share=0.1),), State.OFF),
        ((WAITING, GOOD), State.ON),
        ((WAITING, replace(GOOD, frames=SAMPLES - 1)), State.TRYING),
        ((WAITING, RANDOM), State.OFF),
        ((WAITING, replace(GOOD, wire_share=0.1)), State.OFF),
        ((WAITING, GOOD, FASTER, FASTER, FASTER, FASTER), State.ON),
        ((WAITING, GOOD, *[replace(FASTER, wire_share=0.0, idle_share=0.1)] * 5), State.ON),
        ((WAITING, GOOD, *[GOOD] * (LOOKS - 1)), State.ON),
        ((WAITING, GOOD, *[GOOD] * LOOKS), State.OFF),
        ((WAITING, GOOD, *[replace(FASTER, ratio=0.99)] * LOOKS), State.OFF),
        ((WAITING, GOOD, *[replace(FASTER, idle_share=0.0)] * LOOKS), State.OFF),
        ((WAITING, GOOD, GOOD, GOOD, FASTER, GOOD, GOOD), State.ON),
    ],
)
def test_what_is_seen_decides(readings: tuple[Reading, ...], state: State) -> None:
    assert looked(auto(), *readings) is state


def test_a_try_that_failed_is_not_repeated_soon_and_later_each_time() -> None:
    policy = auto()
    tries: list[float] = []
    for second in range(600):
        before = policy.state
        if policy.look(float(second), RANDOM) is State.TRYING and before is State.OFF:
            tries.append(float(second))
    gaps = [late - early for early, late in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= FIRST_REST
    assert gaps[-1] >= MOST_REST


@given(st.sampled_from([Compress.ON, Compress.OFF]), st.booleans(), st.lists(st.sampled_from([WAITING, GOOD, RANDOM])))
def test_an_operators_word_and_an_older_destination_are_obeyed(
    mode: Compress, understood: bool, readings: list[Reading]
) -> None:
    policy = CompressionPolicy(mode, understood=understood)
    wanted = State.ON if mode is Compress.ON and understood else State.OFF
    assert looked(policy, *readings) is wanted
    assert policy.why


SHARES = st.floats(0, 1)
READINGS = st.builds(
    Reading, wire_share=SHARES, idle_share=SHARES, frames=st.integers(0, 50), ratio=st.floats(0, 1.1),
    rate=st.floats(0, 1e9),
)  # fmt: skip


@given(st.lists(READINGS, max_size=40))
def test_nothing_is_on_without_a_good_try_and_enough_processor(readings: list[Reading]) -> None:
    policy = auto()
    for second, reading in enumerate(readings):
        before = policy.state
        after = policy.look(float(second), reading)
        if before is State.OFF and after is not State.OFF:
            assert after is State.TRYING
            assert reading.idle_share >= IDLE_ENOUGH
        if before is not State.ON and after is State.ON:
            assert before is State.TRYING
            assert reading.frames >= SAMPLES
            assert reading.ratio < 1


@given(st.lists(READINGS, max_size=40))
def test_an_older_destination_never_gets_a_compressed_frame(readings: list[Reading]) -> None:
    policy = CompressionPolicy(Compress.AUTO, understood=False)
    assert looked(policy, *readings) is State.OFF
