"""The line of moves that wait: never too much at once, nobody delayed by one behind, nobody waiting for ever."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from kvmove.admission.queue import Place, Running, Waiting, fits, line
from kvmove.model.move import Claim
from kvmove.model.priority import Priority

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
PATIENCE = timedelta(minutes=15)
CAPACITY = {"host/h1": 8, "host/h2": 8, "host/h3": 8, "nic/h1/mig0": 4, "datastore/d": 32}


def claim(key: str, units: int) -> Claim:
    return Claim(key=key, what=key.partition("/")[2], units=units, capacity=CAPACITY[key])


def unified(*hosts: str) -> tuple[Claim, ...]:
    return tuple(claim(f"host/{host}", 4) for host in hosts)


def waiting(name: str, claims: Iterable[Claim], minute: float = 0, priority: Priority = Priority.NORMAL) -> Waiting:
    return Waiting(name, name, priority, NOW + timedelta(minutes=minute), tuple(claims))


def told(running: Iterable[Running], line_: Iterable[Waiting], now: datetime = NOW) -> dict[str, str]:
    return {place.id: place.reason for place in line(running, line_, now, PATIENCE)}


ANY_CLAIMS = st.lists(st.sampled_from(sorted(CAPACITY)), min_size=1, unique=True).flatmap(
    lambda keys: st.tuples(*(st.builds(claim, st.just(key), st.integers(1, CAPACITY[key])) for key in keys))
)
ANY_WAITING = st.lists(
    st.tuples(ANY_CLAIMS, st.integers(-60, 0), st.sampled_from(Priority)), min_size=1, max_size=6
).map(lambda moves: [waiting(f"w{number}", *move) for number, move in enumerate(moves)])
ANY_ASKED = st.lists(ANY_CLAIMS, max_size=4)


def allowed(asked: Iterable[tuple[Claim, ...]]) -> list[Running]:
    """As many of these as can run at once."""
    running: list[Running] = []
    for number, claims in enumerate(asked):
        if fits(claims, running):
            running.append(Running(f"r{number}", claims))
    return running


def used(moves: Iterable[Running | Waiting]) -> Counter[str]:
    return sum((Counter({claim.key: claim.units for claim in move.claims}) for move in moves), Counter())


@given(ANY_ASKED, ANY_WAITING)
def test_nothing_is_taken_beyond_its_capacity_and_all_are_told(
    asked: list[tuple[Claim, ...]], line_: list[Waiting]
) -> None:
    running = allowed(asked)
    places = line(running, line_, NOW, PATIENCE)
    assert sorted(place.id for place in places) == sorted(move.id for move in line_)
    begun = [move for move in line_ if any(place.id == move.id and not place.reason for place in places)]
    assert all(units <= CAPACITY[key] for key, units in used([*running, *begun]).items())
    assert [place.position for place in places if place.reason] == list(range(1, len(line_) - len(begun) + 1))


@given(ANY_ASKED, ANY_WAITING, st.data())
def test_one_that_overtakes_delays_nobody_before_it(
    asked: list[tuple[Claim, ...]], line_: list[Waiting], data: st.DataObject
) -> None:
    """Whatever ends next: who comes before the last in the line begins as if the last had never been there."""
    running = allowed(asked)
    last = waiting("last", data.draw(ANY_CLAIMS), minute=1, priority=Priority.LOW)
    begun = [place.id for place in line(running, [*line_, last], NOW, PATIENCE) if not place.reason]
    still = [move for move in running if data.draw(st.booleans())]
    for left_out in ([], [last]):
        now_running = still + [
            Running(it.vm, it.claims) for it in [*line_, last] if it.id in begun and it not in left_out
        ]
        rest = [it for it in line_ if it.id not in begun]
        outcome = [place.id for place in line(now_running, rest, NOW, PATIENCE) if not place.reason]
        if not left_out:
            with_it = outcome
    assert with_it == outcome


@given(ANY_ASKED, ANY_WAITING)
def test_all_begin_in_the_end_and_the_first_as_soon_as_there_is_room(
    asked: list[tuple[Claim, ...]], line_: list[Waiting]
) -> None:
    running = allowed(asked)
    left = list(line_)
    while left:
        places = line(running, left, NOW, PATIENCE)
        begun = {place.id for place in places if not place.reason}
        stays = [place for place in places if place.reason]
        if stays:
            first = next(move for move in left if move.id == stays[0].id)
            busy = running + [Running(it.vm, it.claims) for it in left if it.id in begun]
            assert not fits(first.claims, busy)
        assert begun or running
        running = [Running(move.vm, move.claims) for move in left if move.id in begun]  # all that ran has ended
        left = [move for move in left if move.id not in begun]


def test_first_come_first_served_within_a_priority_and_higher_ones_before() -> None:
    line_ = [
        waiting("late", unified("h1", "h2"), 3),
        waiting("early", unified("h1", "h2"), 1),
        waiting("urgent", unified("h1", "h2"), 5, Priority.HIGH),
        waiting("idle", unified("h1", "h2"), 0, Priority.LOW),
    ]
    now = NOW + timedelta(minutes=6)
    assert [place.id for place in line([], line_, now, PATIENCE)] == ["urgent", "early", "late", "idle"]
    assert [place.position for place in line([], line_, now, PATIENCE)] == [0, 0, 1, 2]


def test_a_low_one_is_not_kept_waiting_for_ever_by_a_stream_of_high_ones() -> None:
    low = waiting("low", unified("h1", "h2"), 0, Priority.LOW)
    for minute in range(0, 60, 5):
        now = NOW + timedelta(minutes=minute)
        stream = [waiting(f"high{n}", unified("h1", "h2"), minute, Priority.HIGH) for n in range(2)]
        if told([], [*stream, low], now)["low"] == "":
            assert timedelta(minutes=minute) == 2 * PATIENCE
            return
    raise AssertionError("it still waits")


def test_a_small_one_overtakes_where_it_takes_nothing_that_one_before_it_needs() -> None:
    running = [Running("web1", unified("h1", "h2")), Running("db2", unified("h1", "h2"))]
    large = waiting("large", unified("h2", "h3"), 0)
    assert told(running, [large, waiting("aside", unified("h3"), 1)])["aside"] == ""
    assert told(running, [large, waiting("same", (claim("host/h2", 1),), 1)])["same"] != ""
    running = [Running("web1", unified("h1", "h2")), Running("db2", (claim("host/h2", 1),))]
    assert told(running, [large, waiting("small", (claim("host/h2", 1),), 1)])["small"] == (
        "waits for h2: the move of large comes first"
    )


def test_the_reason_names_what_is_short_and_who_has_it() -> None:
    running = [Running("web1", unified("h1", "h2")), Running("db2", unified("h2"))]
    assert line(running, [waiting("x", unified("h1", "h2"))], NOW, PATIENCE) == [
        Place("x", 1, "waits for h2: 8 of 8 units are taken by moves of web1 and db2")
    ]
    many = [Running(f"vm{n}", (claim("host/h2", 1),)) for n in range(7)]
    assert told(many, [waiting("x", unified("h2"))])["x"] == (
        "waits for h2: 7 of 8 units are taken by moves of vm0, vm1, vm2, vm3 and 3 more"
    )
    assert told([Running("web1", (claim("host/h2", 8),))], [waiting("x", unified("h2"))])["x"] == (
        "waits for h2: 8 of 8 units are taken by the move of web1"
    )
