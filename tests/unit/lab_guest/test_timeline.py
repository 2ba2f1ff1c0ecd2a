"""Guest time becomes host time: rates, silences and stops of the vCPUs, out of a guest that is played."""

import random
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kvmove.lab.guest.timeline import Completion, Gap, Timeline, Window, longest_silence

_MS = 10**6
_ALL = Window(0, 10**15)


def _play(stop_ns: int = 0, delay: Callable[[int], int] = lambda _: 0, lost: range = range(0)) -> Timeline:
    """Two seconds of guest time, a heartbeat each 5 ms and a write each 1 ms; after one second the vCPUs stop."""
    timeline = Timeline()
    for counter in range(400):
        guest_ns = counter * 5 * _MS
        host_ns = 50 * 10**9 + guest_ns + (stop_ns if guest_ns >= 10**9 else 0)
        if counter not in lost:
            timeline.add_heartbeat(guest_ns, host_ns + delay(counter))
    for millisecond in range(2000):
        timeline.add_completion(Completion(millisecond * _MS + 300_000, 200_000))
    return timeline


def _write_gap(timeline: Timeline) -> Gap:
    return longest_silence([at for at, _ in timeline.completions(_ALL)], Window(0, timeline.arrivals[-1]))


def test_a_steady_guest_has_no_stop_and_no_gap() -> None:
    timeline = _play()
    assert timeline.longest_stop(_ALL).length_ns == 0
    assert _write_gap(timeline).length_ns == _MS


def test_a_stop_of_the_vcpus_is_found_though_the_guest_cannot_see_it() -> None:
    timeline = _play(stop_ns=80 * _MS)
    stop = timeline.longest_stop(_ALL)
    assert stop.length_ns == 80 * _MS
    assert stop.start_ns == 50 * 10**9 + 995 * _MS
    assert _write_gap(timeline).length_ns == 81 * _MS


def test_delays_on_the_way_are_no_stops() -> None:
    dice = random.Random(3)
    late = [dice.choice([0, 0, 0, _MS, 30 * _MS if dice.random() < 0.2 else 0]) for _ in range(400)]
    timeline = Timeline()
    arrival = 0
    for counter in range(400):
        arrival = max(arrival, counter * 5 * _MS + late[counter])
        timeline.add_heartbeat(counter * 5 * _MS, arrival)
    assert timeline.longest_stop(_ALL).length_ns < 10 * _MS


def test_a_stop_is_measured_through_delays_and_a_deaf_network() -> None:
    dice = random.Random(4)
    timeline = _play(stop_ns=80 * _MS, delay=lambda _: dice.randrange(4) * _MS, lost=range(190, 230))
    assert abs(timeline.longest_stop(_ALL).length_ns - 80 * _MS) <= 3 * _MS
    assert abs(_write_gap(timeline).length_ns - 81 * _MS) <= 4 * _MS


def test_one_late_heartbeat_moves_no_write() -> None:
    assert _write_gap(_play(delay=lambda counter: 4 * _MS if counter == 100 else 0)).length_ns == _MS


def test_a_late_heartbeat_just_before_a_stop_does_not_hide_any_of_it() -> None:
    timeline = _play(stop_ns=80 * _MS, delay=lambda counter: 60 * _MS if counter == 199 else 0)
    assert timeline.longest_stop(_ALL).length_ns == 80 * _MS


def test_a_window_picks_the_writes_in_it_and_a_neighbour_on_each_side() -> None:
    timeline = _play()
    window = Window(50 * 10**9 + 500 * _MS, 50 * 10**9 + 510 * _MS)
    found = [at for at, _ in timeline.completions(window)]
    assert len(found) == 12
    assert found[0] < window.start_ns < found[1]
    assert found[-2] < window.end_ns < found[-1]


def test_completions_that_were_reported_late_are_put_in_their_order() -> None:
    timeline = _play()
    timeline.add_completion(Completion(5 * _MS, 100))
    times = [at for at, _ in timeline.completions(_ALL)]
    assert times == sorted(times)
    assert len(times) == 2001


def test_a_silence_that_does_not_end_counts_to_the_end_of_the_window() -> None:
    assert longest_silence([10, 20], Window(0, 100)) == Gap(80, 20)
    assert longest_silence([], Window(0, 100)) == Gap(0, 0)
    assert longest_silence([200], Window(0, 100)) == Gap(0, 0)


def test_a_silence_over_the_edge_of_the_window_counts_as_a_whole() -> None:
    assert longest_silence([0, 60, 61, 62, 200], Window(50, 65)) == Gap(138, 62)
    assert longest_silence([0, 60, 61, 62, 65], Window(50, 65)) == Gap(60, 0)


@given(st.lists(st.integers(0, 1000), min_size=2, unique=True))
def test_over_a_window_that_holds_all_events_it_is_the_largest_difference(events: list[int]) -> None:
    events.sort()
    gap = longest_silence(events, Window(events[0], events[-1]))
    assert gap.length_ns == max(after - before for before, after in pairwise(events))
