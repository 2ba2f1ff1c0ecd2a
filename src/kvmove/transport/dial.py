"""Opening a data connection from the source to the destination, over one pair of migration NICs."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from kvmove.model.move import Route
from kvmove.transport.stream import Stream, StreamLost, StreamRefused, prepare_socket
from kvmove.wire import handshake
from kvmove.wire.handshake import Challenge, HandshakeError, Hello, Refusal, StreamRole, Welcome

CONNECT_TIMEOUT = 5.0
"""Seconds for each step of opening a stream: a NIC pair that needs longer is of no use."""


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens streams of one move. `server_name` is the destination's TLS name.

    `context` gives that of a connection which is made now: a move may wait for longer than a certificate lives. None
    means in clear.
    """

    move_id: str
    ticket: bytes
    context: Callable[[], ssl.SSLContext] | None
    server_name: str

    def open(self, route: Route, role: StreamRole, number: int, attempt: int = 0) -> Stream:
        """Connect, prove the ticket, and return the stream once the destination has welcomed it.

        :raise StreamLost: the destination cannot be reached this way; the text says why.
        :raise StreamRefused: the destination does not take it; the text says why.
        """
        try:
            sock = self._connect(route)
        except OSError as error:
            raise StreamLost(f"{route.source_address} -> {route.destination_address}: {error}") from error
        stream = Stream(sock, route.nic)
        try:
            self._introduce(stream, Hello(move=self.move_id, role=role, number=number, nic=route.nic, attempt=attempt))
        except (StreamLost, HandshakeError) as error:
            stream.close()
            kind = StreamRefused if isinstance(error, StreamRefused) else StreamLost
            raise kind(f"{route.source_address} -> {route.destination_address}: {error}") from error
        return stream

    def _connect(self, route: Route) -> socket.socket:
        sock = socket.create_connection(
            (route.destination_address, route.port), CONNECT_TIMEOUT, (route.source_address, 0)
        )
        try:
            prepare_socket(sock)
            if self.context is None:
                return sock
            return self.context().wrap_socket(sock, server_hostname=self.server_name)
        except BaseException:
            sock.close()
            raise

    def _introduce(self, stream: Stream, hello: Hello) -> None:
        stream.send_all(handshake.PREAMBLE + handshake.encode(hello), CONNECT_TIMEOUT)
        challenge = read_message(stream)
        if isinstance(challenge, Refusal):
            raise StreamRefused(f"the destination refused: {challenge.reason}")
        if not isinstance(challenge, Challenge):
            raise HandshakeError("expected a challenge")
        proof = handshake.proof(self.ticket, challenge.nonce, hello, encrypted=self.context is not None)
        stream.send_all(handshake.encode(proof), CONNECT_TIMEOUT)
        answer = read_message(stream)
        if isinstance(answer, Refusal):
            raise StreamRefused(f"the destination refused: {answer.reason}")
        if not isinstance(answer, Welcome):
            raise HandshakeError("expected a welcome")


def read_message(stream: Stream) -> handshake.Message:
    """:raise StreamLost, HandshakeError: nothing came in time, or not a message."""
    length = handshake.decode_length(stream.receive_exactly(handshake.LENGTH.size, CONNECT_TIMEOUT))
    return handshake.decode(stream.receive_exactly(length, CONNECT_TIMEOUT))
