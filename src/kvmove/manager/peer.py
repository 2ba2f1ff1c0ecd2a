"""Who is at the other end of a connection to the manager.

uvicorn hands the application no client certificate, so its HTTP protocol is extended by the one thing we need: the
identity is read once per connection, from the TLS session or from the Unix socket, and travels with every request.

Invariant: a connection carries an identity only if the kernel (Unix socket) or the TLS handshake vouched for it;
nothing in a request (path, header, body) can set it. A user comes with a token instead, which the `gate` looks up and
puts in its place. Who is not known yet holds a connection for `STRANGER_SECONDS` at most, and so few from one address
and in all that strangers use up neither the manager's memory nor its descriptors. This file decides who it is, never
what it may do.
"""

import asyncio
import logging
import os
import socket
import struct
from typing import Any, cast

from fastapi import Request
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from kvmove.errors import NotAllowed
from kvmove.pki.identity import Identity, Role, peer_identity
from kvmove.pki.revocation import serial_of

_LOG = logging.getLogger(__name__)
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of socket(7)

STRANGER_SECONDS = 30.0
"""How long a connection may last that has neither a certificate nor yet a token that is known; to join
takes one or two."""

STRANGERS_OF_ADDRESS = 50
STRANGERS = 500
"""Connections of strangers at once. A user's counts among them only until its token has come."""


class IdentifyingProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with the peer's identity in each request's `scope["state"]["peer"]`; None is a stranger.
    `["serial"]` is that of the peer's certificate; None without one. `["known"]` is to be called when a token has said
    who it is."""

    stranger_until: asyncio.TimerHandle | None = None
    """Set while nobody knows who it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        serial = serial_of(transport.get_extra_info("peercert"))
        peer = identify(transport)
        self.app_state = {**self.app_state, "peer": peer, "serial": serial, "known": self._known}
        if peer is None:
            self._receive_stranger()

    def connection_lost(self, exc: Exception | None) -> None:
        self._known()
        super().connection_lost(exc)

    def _receive_stranger(self) -> None:
        others = [it for it in self.connections if isinstance(it, IdentifyingProtocol) and it.stranger_until]
        from_there = sum(1 for it in others if _host(it.client) == _host(self.client))
        if len(others) >= STRANGERS or from_there >= STRANGERS_OF_ADDRESS:
            self.transport.abort()
            return
        self.stranger_until = self.loop.call_later(STRANGER_SECONDS, self.transport.abort)

    def _known(self) -> None:
        if self.stranger_until is not None:
            self.stranger_until.cancel()
            self.stranger_until = None


def _host(client: tuple[str, int] | None) -> str:
    return client[0] if client else ""


def identify(transport: asyncio.BaseTransport) -> Identity | None:
    """The identity that the kernel or the TLS handshake vouches for; None when there is none."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return _local_user(connection)
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return None
    try:
        return peer_identity(certificate)
    except NotAllowed as error:
        _LOG.warning("A connection without a usable identity: %s", error.detail)
        return None


def _local_user(connection: Any) -> Identity | None:
    """Root (and whoever runs this manager) is an admin: they could read the manager's own keys anyway."""
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Identity(Role.ADMIN, "root") if uid in (0, os.geteuid()) else None


def peer_of_scope(scope: Scope) -> Identity | None:
    """The identity that came with an ASGI request, None for a stranger."""
    peer = scope.get("state", {}).get("peer")
    return peer if isinstance(peer, Identity) else None


def serial_of_scope(scope: Scope) -> int | None:
    """The serial number of the certificate that came with an ASGI request's connection, None without one."""
    serial = scope.get("state", {}).get("serial")
    return serial if isinstance(serial, int) else None


def peer_of(request: Request) -> Identity:
    """The identity of the peer that sent `request`; usable as a FastAPI dependency.

    :raise NotAllowed: the connection has none.
    """
    peer = peer_of_scope(request.scope)
    if peer is None:
        raise NotAllowed("this connection carries no certificate of this installation, and no token")
    return peer
