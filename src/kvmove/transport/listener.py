"""The destination's data port: accepts connections, checks who they are, and hands each to its move.

Nothing is allocated for a peer before TLS and its proof are right. A connection that has not proven itself within
HANDSHAKE_TIMEOUT seconds is closed, and no more than MAX_UNPROVEN may be in that state, so a flood of connections
costs sockets and threads up to that bound and nothing else.

Whether a connection is encrypted is seen from its first byte (TLS begins with 0x16); a move that was planned
encrypted takes no other, because the proof names the transport.
"""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kvmove.errors import NotAllowed
from kvmove.pki.identity import Role, peer_identity
from kvmove.transport.dial import read_message
from kvmove.transport.stream import Stream, StreamLost, prepare_listener, prepare_socket
from kvmove.wire import handshake
from kvmove.wire.handshake import Challenge, HandshakeError, Hello, Proof, Refusal, Welcome

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 5.0
MAX_UNPROVEN = 32
TLS_HANDSHAKE_RECORD = 0x16


class _SaidNothing(StreamLost):
    """The peer only looked whether the port is reached."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A move that this host expects. `accept` takes the stream over, before the peer is welcomed.

    `accept` may raise `StreamLost` to refuse; it returns what runs the stream's life, called in the stream's thread.
    """

    ticket: bytes
    source: str
    encrypted: bool
    accept: Callable[[Hello, Stream], Callable[[], None]]


class DataListener:
    """Listens on all migration addresses of this host. Threads: one that accepts, one per connection.

    `context` gives the TLS context for a connection that is made now, to any thread.
    """

    def __init__(self, addresses: list[str], port: int, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context
        self._expected: dict[str, Expected] = {}
        self._unproven = threading.BoundedSemaphore(MAX_UNPROVEN)
        self._sockets = [self._listen(address, port) for address in addresses]
        self._threads = [
            threading.Thread(target=self._accept, args=(sock,), name="data-accept", daemon=True)
            for sock in self._sockets
        ]

    @staticmethod
    def _listen(address: str, port: int) -> socket.socket:
        sock = socket.create_server((address, port), backlog=64)
        prepare_listener(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Accept no more. Streams that were handed over live on."""
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("the data port was closed already")
            sock.close()

    def expect(self, move_id: str, expected: Expected) -> None:
        """From now on take streams of this move."""
        self._expected[move_id] = expected

    def forget(self, move_id: str) -> None:
        """Take no more streams of this move."""
        self._expected.pop(move_id, None)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, peer = listening.accept()
            except OSError:
                return  # closed
            if not self._unproven.acquire(blocking=False):
                log.warning("refused a data connection from %s: too many are not proven yet", peer[0])
                sock.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(sock, peer[0]), name="data-stream", daemon=True).start()
            except RuntimeError as error:  # the machine has no thread for it now; the next connection may find one
                log.error("a data connection from %s cannot be served: %s", peer[0], error)
                self._unproven.release()
                sock.close()

    def _serve(self, sock: socket.socket, peer: str) -> None:
        try:
            try:
                run = self._prove(sock)
            finally:
                self._unproven.release()
        except _SaidNothing:
            log.debug("a data connection from %s closed without a word: a check of the network does so", peer)
            sock.close()
            return
        except (OSError, StreamLost, HandshakeError, NotAllowed) as error:
            log.warning("refused a data connection from %s: %s", peer, error)
            sock.close()
            return
        run()

    def _prove(self, sock: socket.socket) -> Callable[[], None]:
        sock.settimeout(HANDSHAKE_TIMEOUT)
        prepare_socket(sock)
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            raise _SaidNothing("it closed without a word")
        encrypted = first[0] == TLS_HANDSHAKE_RECORD
        if encrypted:
            sock = self._context().wrap_socket(sock, server_side=True)
        stream = Stream(sock)
        try:
            return self._introduce(stream, encrypted)
        except BaseException:
            stream.close()
            raise

    def _introduce(self, stream: Stream, encrypted: bool) -> Callable[[], None]:
        if stream.receive_exactly(len(handshake.PREAMBLE), HANDSHAKE_TIMEOUT) != handshake.PREAMBLE:
            raise HandshakeError("it does not speak kvmove's protocol")
        hello = read_message(stream)
        if not isinstance(hello, Hello):
            raise HandshakeError("expected a hello")
        stream.nic = hello.nic
        nonce = secrets.token_hex(handshake.NONCE_SIZE)
        stream.send_all(handshake.encode(Challenge(nonce=nonce)), HANDSHAKE_TIMEOUT)
        proof = read_message(stream)
        expected = self._expected.get(hello.move)
        try:
            self._check(stream, expected, encrypted)
            if expected is None or not isinstance(proof, Proof):
                raise HandshakeError("expected a proof")
            if not handshake.proof_is_right(expected.ticket, nonce, hello, proof, encrypted=encrypted):
                raise NotAllowed("the proof of the move's ticket is wrong")
            run = expected.accept(hello, stream)
        except (NotAllowed, StreamLost) as error:
            stream.send_all(handshake.encode(Refusal(reason=str(error))), HANDSHAKE_TIMEOUT)
            raise
        try:
            stream.send_all(handshake.encode(Welcome()), HANDSHAKE_TIMEOUT)
        except StreamLost as error:  # it was taken over, and whoever took it waits for its end: that is its life
            log.info("a data connection over %s was lost before it was welcomed: %s", stream.nic, error)
        return run

    @staticmethod
    def _check(stream: Stream, expected: Expected | None, encrypted: bool) -> None:
        if expected is None:
            raise NotAllowed("no such move is expected here")
        if encrypted is not expected.encrypted:
            raise NotAllowed(f"this move was planned {'encrypted' if expected.encrypted else 'in clear'}")
        if isinstance(stream.sock, ssl.SSLSocket):
            peer = peer_identity(stream.sock.getpeercert())
            if peer.role is not Role.AGENT or peer.name != expected.source:
                raise NotAllowed(
                    f"the certificate is {peer.role} {peer.name}'s, the move's source is {expected.source}"
                )
