"""The client's handshake against our own server's, and against literal answers of a server that knows more."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.nbd.handshake import Handshake, HandshakeState
from kvmove.nbd.negotiation import Agreement, negotiate
from kvmove.nbd.protocol import Export, ExportFlag, ProtocolError

NAMES = st.text(min_size=0, max_size=60)


class Server:
    """Our own server's handshake, driven from the client's side."""

    def __init__(self, export: Export) -> None:
        self.handshake = Handshake(export)
        self.unread = self.handshake.greeting()

    def send(self, data: bytes) -> None:
        self.unread += self.handshake.receive(data)

    def receive(self, count: int) -> bytes:
        assert len(self.unread) >= count, "the client waits for what does not come"
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken


@given(NAMES, st.integers(0, 2**64 - 1), st.booleans(), st.lists(NAMES, max_size=3))
def test_our_client_and_our_server_agree(name: str, size: int, flush: bool, contexts: list[str]) -> None:
    export = Export(name, size, flush)
    server = Server(export)
    agreement = negotiate(server.receive, server.send, name, contexts)
    assert agreement == Agreement(size, export.flags, has_chunks=False, contexts={})
    assert (server.handshake.state, server.unread) == (HandshakeState.READY, b"")


def test_another_export_is_refused() -> None:
    server = Server(Export("d0", 512))
    with pytest.raises(ProtocolError, match="does not give the export 'd1'"):
        negotiate(server.receive, server.send, "d1", ())


def answer(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, option, kind, len(data)) + data


GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
EXPORT = answer(7, 3, struct.pack(">HQH", 0, 4096, 0x103))


class Script(Server):
    """A server that says what it says, whatever it is asked."""

    def __init__(self, *answers: bytes) -> None:
        self.unread = b"".join(answers)
        self.asked = b""

    def send(self, data: bytes) -> None:
        self.asked += data


def test_structured_replies_and_contexts_are_agreed_on() -> None:
    server = Script(
        GREETING,
        answer(8, 1),
        answer(10, 4, struct.pack(">I", 5) + b"base:allocation"),
        answer(10, 4, struct.pack(">I", 9) + b"qemu:allocation-depth"),
        answer(10, 1),
        answer(7, 3, struct.pack(">HIII", 3, 1, 4096, 1 << 25)),
        EXPORT,
        answer(7, 1),
    )
    agreement = negotiate(server.receive, server.send, "d0", ["base:allocation", "qemu:allocation-depth"])
    assert agreement.size == 4096
    assert agreement.flags == ExportFlag.HAS_FLAGS | ExportFlag.READ_ONLY | ExportFlag.CAN_MULTI_CONN
    assert agreement.has_chunks
    assert agreement.contexts == {5: "base:allocation", 9: "qemu:allocation-depth"}
    contexts = b"\0\0\0\2d0" + b"\0\0\0\2" + b"\0\0\0\x0fbase:allocation" + b"\0\0\0\x15qemu:allocation-depth"
    assert server.asked == b"".join(
        (
            b"\0\0\0\3",
            b"IHAVEOPT" + struct.pack(">II", 8, 0),
            b"IHAVEOPT" + struct.pack(">II", 10, len(contexts)) + contexts,
            b"IHAVEOPT" + struct.pack(">II", 7, 8) + b"\0\0\0\2d0\0\0",
        )
    )
    assert server.unread == b""


@pytest.mark.parametrize(
    "server",
    [
        Script(b"NBDMAGICIHAVEOPT\x00\x00"),  # the old handshake
        Script(b"HTTP/1.1 400 Bad R"),
        Script(GREETING, answer(9, 1)),  # the answer to something else
        Script(GREETING, b"\0" * 20),
        Script(GREETING, answer(8, 1), answer(7, 1)),  # no export
        Script(GREETING, struct.pack(">QIII", 0x0003E889045565A9, 8, 3, 1 << 30)),
        Script(GREETING, answer(8, 3) * 40),  # endless
    ],
)
def test_a_server_that_is_none_is_refused(server: Script) -> None:
    with pytest.raises(ProtocolError):
        negotiate(server.receive, server.send, "d0", ())
