"""What a client makes of answers, streams and failures."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from kvmove.client import http
from kvmove.client.http import HttpClient, ServerSentEvent, segment
from kvmove.errors import CheckFailed, InvalidInput, NotAllowed, Unreachable
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import server_context
from kvmove.pki.identity import Identity, Role
from kvmove.pki.peer import NotTrusted
from tests.support.scripted_server import Handler, chunks, json_answer, scripted

H1, H2 = Identity(Role.AGENT, "h1"), Identity(Role.AGENT, "h2")
NUMBER = TypeAdapter(int)


async def ask(tmp_path: Path, answer: Handler, timeout: float = 10) -> int:
    async with scripted(answer, socket=tmp_path / "s"), HttpClient.over_socket(tmp_path / "s") as client:
        return await client.ask(NUMBER, "GET", "/x", timeout=timeout)


async def test_an_answer_of_the_right_type_comes_through(tmp_path: Path) -> None:
    assert await ask(tmp_path, json_answer(7)) == 7


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (json_answer("seven"), "not understood"),
        (json_answer({"a": 1}), "not understood"),
        (chunks(b"<html>"), "else than JSON"),
        (chunks(b""), "else than JSON"),
        (json_answer({"detail": "Not Found"}, status=404), "status 404"),
        (json_answer(None, status=500), "status 500"),
        (json_answer(7, status=302), "status 302"),
        (chunks(b"1", break_off=True), "gave no answer"),
    ],
)
async def test_an_answer_that_is_not_ours_or_not_whole_is_no_answer(tmp_path: Path, answer: Handler, said: str) -> None:
    with pytest.raises(Unreachable, match=said):
        await ask(tmp_path, answer)


async def test_a_problem_becomes_the_error_that_it_was(tmp_path: Path) -> None:
    error = CheckFailed("no room on fast", hint="free 3 GiB", vm_state="running on h1", step="plan")
    with pytest.raises(CheckFailed) as caught:
        await ask(tmp_path, json_answer(error.problem(), status=409))
    assert caught.value.problem() == error.problem()


async def test_an_answer_that_takes_too_long_is_none(tmp_path: Path) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    with pytest.raises(Unreachable, match="in time"):
        await ask(tmp_path, never, timeout=0.2)


async def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmove.pki.peer._MAX_ANSWER", 1000)
    with pytest.raises(Unreachable, match="longer than 1000"):
        await ask(tmp_path, json_answer("x" * 2000))


async def test_a_socket_that_is_not_there_says_so(tmp_path: Path) -> None:
    async with HttpClient.over_socket(tmp_path / "none") as client:
        with pytest.raises(Unreachable, match="does not exist") as caught:
            await client.call("GET", "/")
    assert "daemon" in caught.value.hint


async def test_a_closed_client_says_so(tmp_path: Path) -> None:
    client = HttpClient.over_socket(tmp_path / "none")
    await client.close()
    with pytest.raises(Unreachable, match="closed"):
        await client.call("GET", "/")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    create_authority(folder / "ca")
    for identity in (H1, H2):
        issue(folder / "ca", identity, folder / identity.name)
    create_authority(folder / "foreign-ca")
    issue(folder / "foreign-ca", H2, folder / "foreign")
    return folder


async def call_h2(certificates: Path, tls: ssl.SSLContext | None, me: str = "h1") -> object:
    async with scripted(json_answer("hello"), tls=tls) as server:
        address = f"127.0.0.1:{server.port}"
        async with HttpClient.over_tls(address, certificates / me, H2) as client:
            return await client.call("GET", "/")


async def test_the_party_that_was_asked_for_answers(certificates: Path) -> None:
    assert await call_h2(certificates, server_context(certificates / "h2")) == "hello"


async def test_another_party_at_the_address_is_not_talked_to(certificates: Path) -> None:
    with pytest.raises(NotTrusted, match="not agent h2"):
        await call_h2(certificates, server_context(certificates / "h1"))


async def test_a_certificate_of_another_authority_is_not_talked_to(certificates: Path) -> None:
    with pytest.raises(NotTrusted, match="not agent h2") as caught:
        await call_h2(certificates, server_context(certificates / "foreign"))
    assert "authority" in caught.value.hint


async def test_a_server_without_tls_is_not_talked_to(certificates: Path) -> None:
    with pytest.raises(NotTrusted, match="encryption"):
        await call_h2(certificates, None)


async def test_a_client_that_the_server_refuses_gets_no_answer(certificates: Path) -> None:
    """TLS 1.3 tells a refused client after its own handshake, and it may see no more than a closed connection."""
    (certificates / "mixed").mkdir(mode=0o700)
    for name, party in (("ca.pem", "h1"), ("cert.pem", "foreign"), ("key.pem", "foreign")):
        (certificates / "mixed" / name).write_bytes((certificates / party / name).read_bytes())
        (certificates / "mixed" / name).chmod(0o600)
    with pytest.raises((NotAllowed, Unreachable)):
        await call_h2(certificates, server_context(certificates / "h2"), me="mixed")


async def test_nothing_at_the_port_names_address_and_remedy(certificates: Path) -> None:
    async with HttpClient.over_tls("127.0.0.1:1", certificates / "h1", H2) as client:
        with pytest.raises(Unreachable, match=r"agent h2 at 127\.0\.0\.1:1 .*refused") as caught:
            await client.call("GET", "/")
    assert "is the agent running" in caught.value.hint


def test_a_plain_http_address_is_refused(certificates: Path) -> None:
    with pytest.raises(NotAllowed):
        HttpClient.over_tls("http://127.0.0.1:1", certificates / "h1", H2)


async def numbers(tmp_path: Path, answer: Handler) -> list[int]:
    async with scripted(answer, socket=tmp_path / "s"), HttpClient.over_socket(tmp_path / "s") as client:
        return [number async for number in client.lines(NUMBER, "/x")]


async def test_lines_are_put_together_from_any_pieces(tmp_path: Path) -> None:
    assert await numbers(tmp_path, chunks(b"1\n2", b"3\n", b"\n", b"4\r\n")) == [1, 23, 4]


async def test_a_stream_that_breaks_off_is_not_one_that_ended(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        await numbers(tmp_path, chunks(b"1\n", break_off=True))
    with pytest.raises(Unreachable, match="within a line"):
        await numbers(tmp_path, chunks(b"1\n2"))


async def test_a_line_of_another_type_is_not_passed_on(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="not understood"):
        await numbers(tmp_path, chunks(b"one\n"))


async def test_a_line_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MAX_LINE", 1000)
    with pytest.raises(Unreachable, match="longer"):
        await numbers(tmp_path, chunks(b"x" * 2000))


async def test_a_silent_stream_counts_as_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.2)

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"1\n")
        await asyncio.sleep(3600)
        return response

    with pytest.raises(Unreachable, match="in time"):
        await numbers(tmp_path, silent)


async def test_leaving_a_stream_early_closes_it(tmp_path: Path) -> None:
    async with scripted(chunks(b"1\n2\n3\n"), socket=tmp_path / "s"), HttpClient.over_socket(tmp_path / "s") as client:
        stream = client.lines(NUMBER, "/x")
        assert await anext(stream) == 1
        await stream.aclose()


async def test_events_come_with_name_id_and_data(tmp_path: Path) -> None:
    text = b": hello\n\nevent: task\nid: 3\ndata: a\ndata: b\n\nretry: 5\ndata:c\n\nid: 4\n\ndata: cut off\n"
    async with (
        scripted(chunks(text[:20], text[20:33], text[33:]), socket=tmp_path / "s") as server,
        HttpClient.over_socket(tmp_path / "s") as client,
    ):
        events = [event async for event in client.events("/e", "2")]
    assert events == [ServerSentEvent("task", "3", "a\nb"), ServerSentEvent("message", "3", "c")]
    assert server.headers[0]["Last-Event-ID"] == "2"


TEXTS = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1)
EVENTS = st.lists(st.builds(ServerSentEvent, st.sampled_from(["task", "message"]), TEXTS, TEXTS))


@given(events=EVENTS)
async def test_every_event_that_is_written_is_read(events: list[ServerSentEvent]) -> None:
    async def lines() -> AsyncIterator[str]:
        for event in events:
            yield f"event: {event.event}"
            yield f"id: {event.id}"
            yield f"data: {event.data}"
            yield ": comment"
            yield ""

    assert [event async for event in http._assemble(lines())] == events


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_a_segment_can_leave_no_path(text: str) -> None:
    try:
        encoded = segment(text)
    except InvalidInput:
        assert text in {"", ".", ".."}
        return
    assert "/" not in encoded and "?" not in encoded and "#" not in encoded and encoded not in {".", ".."}
