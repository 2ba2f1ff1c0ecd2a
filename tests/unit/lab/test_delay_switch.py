"""The lab's long wires: each frame late, in order, to the right port."""

from hypothesis import given
from hypothesis import strategies as st

from kvmove.lab.delay_switch import HEADER, MOST_BYTES, DelaySwitch

PORTS = ["p0", "p1", "p2"]
ALL = b"\xff" * 6


def mac(port: str) -> bytes:
    return b"\x52\x54\x00\x00\x00" + port[1:].encode()


def frame(to: bytes, sender: str, content: bytes = b"") -> bytes:
    return bytes(HEADER) + to + mac(sender) + b"\x08\x00" + content


def test_a_frame_leaves_after_the_delay_and_not_before() -> None:
    switch = DelaySwitch(PORTS, 0.05)
    switch.arrived("p0", frame(ALL, "p0"), 1.0)
    assert switch.next_due() == 1.05
    assert switch.leaving(1.04) == []
    assert [port for port, _ in switch.leaving(1.06)] == ["p1", "p2"]
    assert switch.next_due() is None


def test_it_learns_who_is_where() -> None:
    switch = DelaySwitch(PORTS, 0.0)
    switch.arrived("p1", frame(ALL, "p1"), 0.0)
    switch.leaving(0.0)
    switch.arrived("p0", frame(mac("p1"), "p0"), 1.0)
    switch.arrived("p0", frame(mac("p2"), "p0"), 1.0)
    switch.arrived("p1", frame(mac("p1"), "p1"), 1.0)
    assert [port for port, _ in switch.leaving(1.0)] == ["p1", "p1", "p2"]


def test_what_it_cannot_hold_is_lost() -> None:
    switch = DelaySwitch(PORTS, 1.0)
    large = frame(ALL, "p0", bytes(MOST_BYTES // 2 - 100))
    for _ in range(3):
        switch.arrived("p0", large, 0.0)
    assert switch.lost == 1
    assert len(switch.leaving(1.0)) == 4
    switch.arrived("p0", large, 2.0)
    assert switch.lost == 1


@given(st.lists(st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS), st.floats(0, 0.2))))
def test_order_is_kept_and_nothing_comes_twice(sent: list[tuple[str, str, float]]) -> None:
    switch, now = DelaySwitch(PORTS, 0.1), 0.0
    left: list[tuple[str, bytes]] = []
    for number, (sender, to, step) in enumerate(sent):
        now += step
        left += switch.leaving(now)
        switch.arrived(sender, frame(mac(to), sender, number.to_bytes(4, "big")), now)
    left += switch.leaving(now + 0.1)
    for port in PORTS:
        numbers = [content[-4:] for at, content in left if at == port]
        assert numbers == sorted(set(numbers))
    for number, (sender, to, _) in enumerate(sent):
        ports = [port for port, content in left if content[-4:] == number.to_bytes(4, "big")]
        assert (to in ports) is (sender != to)
        assert sender not in ports
