"""Connections of strangers: few, short, and with little to say; those of users and agents are neither."""

import asyncio

import pytest

from kvmove.manager import peer
from kvmove.manager.gate import MAX_BODY_OF_STRANGER
from kvmove.pki.contexts import client_context, trusting_context
from kvmove.pki.identity import Role
from tests.unit.manager.conftest import Served

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(served: Served, name: str = "") -> Streams:
    host, _, port = served.address.rpartition(":")
    tls = client_context(served.pki / name) if name else trusting_context(served.authority())
    return await asyncio.open_connection(host, int(port), ssl=tls, server_hostname="manager.kvmove")


async def ask(streams: Streams, request: str) -> str:
    """The status line of the answer; the rest of a short answer is read too. Empty: the connection was closed."""
    reader, writer = streams
    writer.write(request.encode())
    return (await reader.read(65536)).decode().partition("\r\n")[0]


async def is_closed(streams: Streams) -> bool:
    try:
        async with asyncio.timeout(5):
            return await streams[0].read(1) == b""
    except ConnectionError:
        return True


async def test_a_stranger_that_trickles_is_put_out_and_others_are_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "STRANGER_SECONDS", 0.5)
    made = await served.new_user(Role.VIEWER)
    silent, trickling, user, agent = [await connect(served, name) for name in ("", "", "", "h1")]
    trickling[1].write(b"POST /pki/v1/join HTTP/1.1\r\nHost: m\r\nContent-Length: 20000\r\n\r\n{")
    as_user = f"GET /api/v1/users HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {made.token}\r\n\r\n"
    assert "403" in await ask(user, as_user)
    assert await is_closed(silent) and await is_closed(trickling)
    assert "403" in await ask(user, as_user)
    assert "200" in await ask(agent, "GET /healthz HTTP/1.1\r\nHost: m\r\n\r\n")
    for _, writer in (silent, trickling, user, agent):
        writer.close()


async def test_strangers_beyond_the_limit_are_turned_away_and_parties_are_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "STRANGERS_OF_ADDRESS", 2)
    opened = [await connect(served) for _ in range(2)]
    opened.append(await connect(served))
    assert await is_closed(opened[2])
    opened.append(await connect(served, "h1"))
    assert "200" in await ask(opened[3], "GET /healthz HTTP/1.1\r\nHost: m\r\n\r\n")
    for _, writer in opened:
        writer.close()


async def test_a_stranger_sends_no_long_body(served: Served) -> None:
    streams = await connect(served)
    length = MAX_BODY_OF_STRANGER + 1
    asked = f"POST /pki/v1/join HTTP/1.1\r\nHost: m\r\nContent-Length: {length}\r\n\r\n"
    assert "422" in await ask(streams, asked)
    streams[1].close()
