"""The mover's threads over real sockets and files: no QEMU, a thread plays the guest and its mirror."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kvmove.disk.offload import Offload, Rung
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.model.move import Route
from kvmove.model.terms import Compress
from kvmove.mover.bulk_copy import ZERO_GRAIN
from kvmove.mover.compression import Compression
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import CopyTerms, MoverSettings, MovingDisk
from kvmove.mover.receiver import DiskReceiver
from kvmove.mover.time_spent import Wait
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import LiveContext, client_context, server_context
from kvmove.pki.identity import Identity, Role
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.dial import Dialer
from kvmove.transport.listener import DataListener, Expected
from kvmove.transport.stream import StreamLost
from kvmove.units import MIB
from kvmove.wire import frames
from kvmove.wire.compressed import Packer
from kvmove.wire.handshake import StreamRole
from tests.support.file_systems import cached
from tests.support.writing_guest import FakeMirror, Guest, make_source

SIZE = 48 * MIB + 12 * 1024
Setup = tuple[DiskMove, "Destination", Path]
TICKET = b"one move's secret"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two hosts in one folder each."""
    root = tmp_path_factory.mktemp("pki")
    create_authority(root / "ca")
    for name in ("h1", "h2", "h3"):
        issue(root / "ca", Identity(Role.AGENT, name), root / name)
    return root


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Destination:
    """A listener and a receiver of one disk."""

    def __init__(self, parties: Path, path: Path, *, encrypted: bool) -> None:
        self.port = free_port()
        self.target = RawTarget.create(path, SIZE)
        self.receiver = DiskReceiver([self.target])
        self.listener = DataListener(["127.0.0.1"], self.port, LiveContext(parties / "h2", server_context))
        self.listener.expect(
            "move-1",
            Expected(TICKET, "h1", encrypted, lambda hello, stream: self.receiver.accept(hello.number, stream)),
        )
        self.listener.start()

    def close(self) -> None:
        self.listener.close()
        self.receiver.stop()
        self.target.close()


@pytest.fixture(params=[True, False], ids=["tls", "plain"])
def setup(
    request: pytest.FixtureRequest, parties: Path, tmp_path: Path
) -> Iterator[tuple[DiskMove, Destination, Path]]:
    encrypted: bool = request.param
    source = tmp_path / "source.raw"
    make_source(source, SIZE)
    destination = Destination(parties, tmp_path / "target.raw", encrypted=encrypted)
    context = LiveContext(parties / "h1", client_context) if encrypted else None
    dialer = Dialer("move-1", TICKET, context, Identity(Role.AGENT, "h2").dns_name)
    routes = [Route(nic=nic, source_address="127.0.0.1", destination_address="127.0.0.1", port=destination.port)
              for nic in ("mig0", "mig1")]  # fmt: skip
    disk = RawFile(source)
    disks = [MovingDisk(disk)]
    move = DiskMove(disks, routes, lambda route, number: dialer.open(route, StreamRole.DISK, number), MoverSettings())
    yield move, destination, tmp_path
    move.stop()
    destination.close()
    disk.close()


def finish(move: DiskMove, destination: Destination, folder: Path) -> None:
    assert move.wait_settled(30)
    destination.receiver.sync()
    assert (folder / "source.raw").read_bytes() == (folder / "target.raw").read_bytes()


def copied(move: DiskMove) -> None:
    while not move.is_copied():
        time.sleep(0.01)


def test_a_disk_without_guest_arrives_with_its_holes(setup: Setup) -> None:
    move, destination, folder = setup
    move.start(10)
    move.start_copy()
    copied(move)
    assert move.wait_settled(30)
    data = 8 * (2 * MIB + 12288)
    assert cached(folder / "target.raw") < data / 4, "large writes go past the page cache"
    finish(move, destination, folder)
    edges = 8 * ZERO_GRAIN  # zeroes that share a grain with data are sent with it
    assert destination.target.allocated() <= data + edges, "stored zeroes and holes stay holes"
    sent = sum(nic.sent for nic in move.snapshot()[1].values())
    assert data <= sent <= (data + edges) * 1.01


def test_a_writing_guest_loses_nothing(setup: Setup) -> None:
    move, destination, folder = setup
    mirror = FakeMirror()
    move.mirror(0).server = mirror
    with Guest(folder / "source.raw", move) as guest:
        move.start(10)
        move.start_copy()
        copied(move)
        time.sleep(0.2)
    finish(move, destination, folder)
    assert mirror.answered == guest.written


def make_text(path: Path) -> None:
    """Words in place of what random data there is, but for the last MiB of it: that gets no smaller."""
    with path.open("r+b") as file:
        for start in range(0, SIZE - 9 * MIB, 6 * MIB):
            file.seek(start)
            file.write(b"%012d words that are not random\n" % start * (2 * MIB // 44))


def compressing(move: DiskMove, *, understood: bool = True) -> None:
    move.compression = Compression(Compress.ON)
    move.compression.begin(understood=understood)


def test_compressed_a_writing_guest_loses_nothing_and_less_is_sent(setup: Setup) -> None:
    move, destination, folder = setup
    make_text(folder / "source.raw")
    compressing(move)
    mirror = FakeMirror()
    move.mirror(0).server = mirror
    move.start(10)
    move.start_copy()
    copied(move)
    sent = sum(nic.sent for nic in move.snapshot()[1].values())
    assert sent < 8 * 2 * MIB / 2
    assert move.compression.before > 12 * MIB
    assert move.compression.after < move.compression.before / 4
    with Guest(folder / "source.raw", move) as guest:
        for _ in range(3):
            time.sleep(0.05)
            for sender in list(move._by_number.values()):
                sender.cut()
        time.sleep(0.2)
        copied(move)
    finish(move, destination, folder)
    assert mirror.answered == guest.written
    figures = move.figures()
    assert figures.disks[0].compress_seconds > 0
    assert figures.disks[0].read_bytes >= 8 * 2 * MIB
    assert all(0 <= sum(stream.waited.values()) <= stream.open_seconds + 0.1 for stream in figures.streams)
    assert destination.receiver.times().write_seconds > 0


@pytest.mark.parametrize("text", [True, False], ids=["words", "noise"])
def test_auto_compresses_by_itself_what_gets_smaller_where_the_network_is_narrow(setup: Setup, text: bool) -> None:
    """The cap makes it narrow; how idle this machine is, is not left to chance."""
    move, destination, folder = setup
    if text:
        make_text(folder / "source.raw")
    move.compression = Compression(Compress.AUTO, idle=lambda: 0.9, look_seconds=0.1)
    move.compression.begin(understood=True)
    move.bandwidth.set_cap(6 * MIB)
    move.start(10)
    move.start_copy()
    copied(move)
    move.bandwidth.set_cap(None)
    finish(move, destination, folder)
    if text:
        assert move.compression.after < move.compression.before / 4
        assert move.compression.before > MIB
    else:
        assert move.compression.before == 0
        assert "does not get smaller" in move.compression.why


def test_an_older_destination_gets_no_compressed_frame(setup: Setup) -> None:
    move, destination, folder = setup
    make_text(folder / "source.raw")
    compressing(move, understood=False)
    move.start(10)
    move.start_copy()
    copied(move)
    finish(move, destination, folder)
    assert move.compression.before == 0
    assert sum(nic.sent for nic in move.snapshot()[1].values()) > 16 * MIB


@pytest.mark.parametrize(
    ("offset", "payload"),
    [
        (0, b"\0\0\x10\0 no zstd"),
        (0, b"\xff\xff\xff\xff" + bytes(64)),
        (SIZE - 4096, Packer().pack(memoryview(bytes(8192)))),
        (0, (4096).to_bytes(4, "big") + Packer().pack(memoryview(bytes(frames.MAX_PAYLOAD)))[4:]),
    ],
    ids=["garbage", "too-long", "beyond-the-end", "more-than-declared"],
)
def test_a_hostile_compressed_frame_ends_its_stream_and_writes_nothing(
    setup: Setup, offset: int, payload: bytes
) -> None:
    move, destination, _ = setup
    stream = move._dial(Route(nic="x", source_address="127.0.0.1", destination_address="127.0.0.1",
                              port=destination.port), 77)  # fmt: skip
    stream.send_all(frames.zstd_header(0, offset, len(payload)) + payload, 5.0)
    with pytest.raises(StreamLost, match="peer"):
        stream.receive_exactly(1, 5.0)
    stream.close()
    assert destination.receiver.applied_bytes == 0
    assert destination.receiver.failure == ""


def test_streams_cut_again_and_again_lose_nothing(setup: Setup) -> None:
    move, destination, folder = setup
    mirror = FakeMirror()
    move.mirror(0).server = mirror
    with Guest(folder / "source.raw", move) as guest:
        move.start(10)
        move.start_copy()
        for pause in (0.01, 0.05, 0.3, 0.02, 0.2):
            time.sleep(pause)
            for sender in list(move._by_number.values()):
                sender.cut()
        copied(move)
    finish(move, destination, folder)
    assert mirror.answered == guest.written
    assert move.snapshot()[0][0].recopied > 0, "something was on its way when the streams were cut"


@pytest.mark.parametrize(
    ("host", "ticket", "encrypt", "reason"),
    [
        ("h3", TICKET, True, "certificate"),
        ("h1", b"another", True, "ticket"),
        ("h1", TICKET, False, "encrypted"),
    ],
)
def test_a_stranger_gets_no_stream(
    parties: Path, tmp_path: Path, host: str, ticket: bytes, encrypt: bool, reason: str
) -> None:
    destination = Destination(parties, tmp_path / "target.raw", encrypted=True)
    context = LiveContext(parties / host, client_context) if encrypt else None
    dialer = Dialer("move-1", ticket, context, Identity(Role.AGENT, "h2").dns_name)
    route = Route(nic="mig0", source_address="127.0.0.1", destination_address="127.0.0.1", port=destination.port)
    with pytest.raises(StreamLost, match=reason):
        dialer.open(route, StreamRole.DISK, 1)
    destination.close()


def test_a_stream_that_is_opened_late_shows_the_renewed_certificate(parties: Path, tmp_path: Path) -> None:
    """A move may wait for longer than the certificate lives that it was planned with."""
    folder, identity = tmp_path / "h1", Identity(Role.AGENT, "h1")
    issue(parties / "ca", identity, folder, valid_for=-timedelta(hours=1))
    destination = Destination(parties, tmp_path / "target.raw", encrypted=True)
    dialer = Dialer("move-1", TICKET, LiveContext(folder, client_context), Identity(Role.AGENT, "h2").dns_name)
    route = Route(nic="mig0", source_address="127.0.0.1", destination_address="127.0.0.1", port=destination.port)
    with pytest.raises(StreamLost):
        dialer.open(route, StreamRole.DISK, 1)
    issue(parties / "ca", identity, folder)
    dialer.open(route, StreamRole.DISK, 2).close()
    destination.close()


def test_a_full_destination_is_told_to_the_source(setup: Setup) -> None:
    move, destination, _ = setup

    class Full(RawTarget):
        def write_at(self, offset: int, data: memoryview | bytes) -> None:
            raise OSError(28, "No space left on device")

    destination.target.__class__ = Full
    move.start(10)
    move.start_copy()
    with pytest.raises(Exception, match="No space left"):
        while not move.is_copied():
            time.sleep(0.01)


def test_a_cap_holds_over_all_streams_and_may_be_changed(setup: Setup) -> None:
    """Four seconds' worth of data at the cap: after a second, far from all of it is there."""
    move, destination, folder = setup
    cap = 4 * MIB
    move.mirror(0).server = FakeMirror()
    move.bandwidth.set_cap(cap)
    began = time.monotonic()
    move.start(10)
    move.start_copy()
    time.sleep(1.0)
    sent = sum(nic.sent for nic in move.snapshot()[1].values())
    assert sent <= cap * (time.monotonic() - began + 1.0) + 2 * MIB
    assert not move.is_copied()
    with Guest(folder / "source.raw", move):
        move.pause_copy(paused=True)
        time.sleep(0.2)
        move.bandwidth.set_cap(None)
        move.pause_copy(paused=False)
        copied(move)
    finish(move, destination, folder)


def test_a_capped_move_within_a_host_reads_and_writes_no_faster(tmp_path: Path) -> None:
    source = tmp_path / "source.raw"
    make_source(source, SIZE)
    with RawFile(source) as disk, RawTarget.create(tmp_path / "target.raw", SIZE) as target:
        terms = CopyTerms(Bandwidth(4 * MIB))
        offload = Offload(disk, target, ladder=())
        move = DiskMove.within_host([MovingDisk(disk)], [offload], MoverSettings(), terms)
        try:
            began = time.monotonic()
            move.start(10)
            move.start_copy()
            time.sleep(1.0)
            moved = offload.moved[Rung.READ_WRITE]
            assert 0 < moved <= 4 * MIB * (time.monotonic() - began) + 3 * MIB
            figures = move.figures()
            assert sum(stream.waited[Wait.CAP] for stream in figures.streams) > 0.5
            assert min(figures.disks[0].read_seconds, figures.disks[0].write_seconds) > 0
            move.bandwidth.set_cap(None)
            copied(move)
        finally:
            move.stop()
    assert source.read_bytes() == (tmp_path / "target.raw").read_bytes()
