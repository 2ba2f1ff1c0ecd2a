"""Frames that are compressed, or not, and the figures by which it is decided."""

import os

import pytest

from kvmove.model.terms import Compress
from kvmove.mover.compression import Compression, FramePacker, network_wait, parse_stat
from kvmove.mover.compression_policy import State
from kvmove.mover.time_spent import StreamFigures, StreamTimes, Wait
from kvmove.transport.tcp_info import NOTHING_KNOWN, TcpInfo, parse_tcp_info
from kvmove.units import MIB
from kvmove.wire.compressed import unpack

TEXT = memoryview(b"the same words again and again " * 8192)
NOISE = memoryview(os.urandom(256 * 1024))


def packer(compression: Compression) -> FramePacker:
    return FramePacker(compression, lambda disk, seconds: None)


def streams(active: float, waited: float, tcp: TcpInfo = NOTHING_KNOWN) -> list[StreamFigures]:
    waits = dict.fromkeys(Wait, 0.0) | {Wait.SOCKET: waited, Wait.IDLE: 5.0}
    return [StreamFigures("mig0", 0, active + 5.0, waits, tcp)]


def test_what_gets_no_smaller_is_sent_as_it_is() -> None:
    compression = Compression(Compress.ON)
    compression.begin(understood=True)
    packed = packer(compression).pack(0, TEXT)
    assert packed is not None
    assert unpack(memoryview(packed)) == TEXT
    assert packer(compression).pack(0, NOISE) is None
    assert (compression.before, compression.after) == (len(TEXT), len(packed))


@pytest.mark.parametrize(("mode", "understood"), [(Compress.ON, False), (Compress.OFF, True), (Compress.AUTO, True)])
def test_off_nothing_is_compressed(mode: Compress, understood: bool) -> None:
    compression = Compression(mode)
    compression.begin(understood=understood)
    assert packer(compression).pack(0, TEXT) is None
    assert not packer(compression).is_active


def test_before_the_destination_has_answered_nothing_is_compressed() -> None:
    assert packer(Compression(Compress.ON)).pack(0, TEXT) is None


@pytest.mark.parametrize(("data", "state"), [(TEXT, State.ON), (NOISE, State.OFF)])
def test_auto_tries_a_few_frames_where_the_network_is_waited_for(data: memoryview, state: State) -> None:
    compression = Compression(Compress.AUTO, idle=lambda: 0.9)
    compression.begin(understood=True)
    compression.look(0.0, lambda: streams(0, 0), lambda: 0)
    compression.look(0.5, lambda: streams(0.5, 0.5), lambda: 5 * MIB)
    assert not packer(compression).is_active, "not looked at before a second is over"
    compression.look(1.0, lambda: streams(1, 1), lambda: 10 * MIB)
    assert compression.state is State.TRYING
    frames = [packer(compression).pack(0, data)] + [
        one.pack(0, data) for one in [packer(compression)] for _ in range(16)
    ]
    assert sum(frame is not None for frame in frames) == (4 if state is State.ON else 0)
    compression.look(2.0, lambda: streams(2, 2), lambda: 20 * MIB)
    assert compression.state is state


def test_a_look_waits_for_enough_data_however_narrow_the_network_is() -> None:
    compression = Compression(Compress.AUTO, idle=lambda: 0.9)
    compression.begin(understood=True)
    one = packer(compression)

    def look(second: int) -> None:
        compression.look(float(second), lambda: streams(second, second), lambda: second * 64 * 1024)

    for second in range(100):
        look(second)
        if second % 4 == 0:
            one.pack(0, TEXT)
    assert compression.state is State.ON


def test_a_destination_that_takes_no_more_is_no_slow_network() -> None:
    assert network_wait(streams(10, 8)) == (10, 8)
    assert network_wait(streams(10, 8, TcpInfo(receiver_limited=7.5))) == (10, 0.5)


def test_the_first_line_of_proc_stat() -> None:
    assert parse_stat("cpu  100 20 30 400 50 6 7 8 9 10\n") == (450, 621)


def test_the_kernels_figures_of_a_connection_whatever_its_age() -> None:
    raw = bytearray(232)
    raw[68:72] = (1500).to_bytes(4, "little")
    raw[176:184] = (2_000_000).to_bytes(8, "little")
    raw[184:192] = (500_000).to_bytes(8, "little")
    assert parse_tcp_info(bytes(raw)) == pytest.approx((0.0015, 2.0, 0.5))
    assert parse_tcp_info(bytes(raw[:104])) == pytest.approx((0.0015, 0.0, 0.0))


def test_times_of_a_worker_outlive_its_streams() -> None:
    times = StreamTimes("mig0")
    times.opened(10.0)
    times.closed(12.0, TcpInfo(0.01, 1.0, 0.5), 1000)
    times.opened(20.0)
    now = times.figures(21.0, TcpInfo(0.02, 0.25, 0.0), 10)
    assert (now.sent, now.open_seconds, now.tcp) == (1010, 3.0, TcpInfo(0.02, 1.25, 0.5))
