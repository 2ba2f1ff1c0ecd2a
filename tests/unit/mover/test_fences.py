"""A stream that is lost with nothing on its way: what is equal stays so, and the stream is fenced all the same."""

from kvmove.mover.dispatcher import Dispatcher, Limits


def test_a_lost_stream_changes_nothing_that_was_delivered_and_is_fenced() -> None:
    dispatcher = Dispatcher([], 1024, Limits(1024, 0, 1.0))
    for number in (0, 1):
        dispatcher.add_stream(number)
    assert dispatcher.settled()
    dispatcher.lose_stream(0)
    assert dispatcher.delivered()
    assert not dispatcher.settled()
    assert dispatcher.next_fence(1) == 0
    assert dispatcher.settled()
