"""A guest that is slowed while nothing of its memory gets through."""

from kvmove.memory.slowed_guest import SlowedInVain


def test_it_counts_while_the_guest_is_slowed_and_nothing_is_sent() -> None:
    it = SlowedInVain()
    assert it.look(10.0, 500, 40) == 0.0
    assert it.look(40.0, 500, 40) == 30.0
    assert it.look(41.0, 501, 40) == 0.0
    assert it.look(71.0, 501, 50) == 30.0


def test_a_guest_that_is_not_slowed_waits_as_long_as_it_takes() -> None:
    it = SlowedInVain()
    for second in range(1000):
        assert it.look(float(second), 500, 0) == 0.0
