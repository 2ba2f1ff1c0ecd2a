"""How much a connection is let hold: enough for its path, and never less than before."""

from hypothesis import given
from hypothesis import strategies as st

from kvmove.transport.buffer_sizes import HEADROOM, LEAST_SECONDS, MOST, BufferSize
from kvmove.units import MIB


def looked(sizes: BufferSize, rate: float, round_trip: float, seconds: float) -> int:
    """What it says after so long at a steady rate, looked at as often as it asks for."""
    now, size = 0.0, 0
    while now <= seconds:
        size = sizes.look(now, round(rate * now), round_trip)
        now = sizes.next_look
    return size


def test_a_gigabit_over_150_ms_is_held_whole() -> None:
    assert looked(BufferSize(), 125_000_000, 0.15, 2.0) >= 125_000_000 * 0.15


def test_nothing_is_asked_for_before_anything_is_known() -> None:
    assert BufferSize().look(5.0, 100 * MIB, 0.1) == 0


@given(st.floats(1e6, 5e9), st.floats(1e-5, 0.2))
def test_a_buffer_that_limits_the_rate_grows_until_it_does_not(wire: float, round_trip: float) -> None:
    """The path carries the wire's rate, or what the buffer lets be under way, whichever is less."""
    sizes, now, count, held, looks = BufferSize(), 0.0, 0.0, 64 * 1024, 0
    enough = min(wire * round_trip, MOST)
    while held < enough:
        held = max(held, sizes.look(now, round(count), round_trip))
        step = sizes.next_look - now
        count += min(wire, held / round_trip) * step
        now = sizes.next_look
        looks += 1
        assert looks <= 20
    assert now <= 20 * max(round_trip, LEAST_SECONDS)


@given(st.lists(st.tuples(st.floats(0.001, 10), st.integers(0, 10**10), st.floats(0, 1)), min_size=2))
def test_it_never_shrinks_and_has_a_bound(steps: list[tuple[float, int, float]]) -> None:
    sizes, now, count, before, fastest = BufferSize(), 0.0, 0, 0, 0.0
    for seconds, carried, round_trip in steps:
        now, count = now + seconds, count + carried
        fastest = max(fastest, carried / seconds * round_trip)
        size = sizes.look(now, count, round_trip)
        assert before <= size <= MOST
        assert size <= HEADROOM * fastest * 1.01 + 1
        before = size
