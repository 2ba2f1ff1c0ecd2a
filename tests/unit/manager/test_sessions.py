"""Sessions of people at the page: what opens one, what it gives, what ends it, and what another site's page may do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from starlette.datastructures import Headers

from kvmove.errors import Busy, NotAllowed
from kvmove.manager.access_store import AccessStore
from kvmove.manager.origin import check_origin
from kvmove.manager.sessions import COOKIE, LAST_SECONDS, MARK, MOST_OF_TOKEN, Sessions, mark_of, secret_of
from kvmove.manager.users import Users
from kvmove.model.access import NewUser, UserRole, UserToken
from kvmove.pki.contexts import trusting_context
from kvmove.pki.identity import Role
from tests.unit.manager.conftest import Served

SESSION = "/api/v1/session"


class Answer(NamedTuple):
    status: int
    body: Any
    cookie: str


class Browser:
    """Asks as a browser does, which knows one session; `headers` are what a page of ours would send."""

    def __init__(self, served: Served, http: aiohttp.ClientSession) -> None:
        self.served = served
        self.http = http
        self.secret = ""
        self.mark = ""

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        sent = {"Cookie": f"theme=dark; {COOKIE}={self.secret}"} if self.secret else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        tls = trusting_context(self.served.authority())
        async with self.http.request(
            method, self.served.url + path, json=body, headers=sent, ssl=tls, server_hostname="manager.kvmove"
        ) as answer:
            told = await answer.json(content_type=None) if answer.status != 204 else None
            set_cookie = answer.headers.get("Set-Cookie", "")
            return Answer(answer.status, told, set_cookie)

    async def log_in(self, user: UserToken) -> Answer:
        answer = await self.ask("POST", SESSION, {"name": user.name, "token": user.token})
        self.secret = SimpleCookie(answer.cookie)[COOKIE].value
        self.mark = answer.body["mark"]
        return answer

    async def change(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return await self.ask(method, path, body, **{MARK.replace("-", "_"): self.mark} | headers)


@asynccontextmanager
async def browser(served: Served) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Browser(served, http)


async def test_a_session_gives_what_the_user_may_and_nothing_more(served: Served) -> None:
    async with browser(served) as it:
        assert (await it.ask("GET", "/api/v1/vms")).status == 401
        answer = await it.log_in(await served.new_user(Role.VIEWER))
        assert answer.status == 201
        assert all(part in answer.cookie for part in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"))
        assert (await it.ask("GET", "/api/v1/vms")).status == 200
        assert (await it.ask("GET", "/api/v1/users")).status == 403
        assert (await it.change("POST", "/api/v1/moves", {"vm": "web1", "host": "h2"})).status == 403
        told = (await it.ask("GET", SESSION)).body
        assert (told["name"], told["role"], told["mark"]) == ("viewer-user", "viewer", it.mark)


async def test_logging_out_ends_the_session_on_the_manager_too(served: Served) -> None:
    async with browser(served) as it:
        await it.log_in(await served.new_user(Role.OPERATOR))
        assert (await it.change("DELETE", SESSION)).status == 204
        assert (await it.ask("GET", "/api/v1/vms")).status == 401
        assert (await it.ask("GET", SESSION)).status == 401


@pytest.mark.parametrize("name, token", [("operator-user", "wrong"), ("other", None), ("", ""), ("é", "é")])
async def test_a_wrong_name_or_token_opens_nothing(served: Served, name: str, token: str | None) -> None:
    user = await served.new_user(Role.OPERATOR)
    async with browser(served) as it:
        answer = await it.ask("POST", SESSION, {"name": name, "token": user.token if token is None else token})
        assert (answer.status, answer.cookie) == (401, "")
        assert answer.body["detail"] == "there is no user of that name with that token"


async def test_who_guesses_is_made_to_wait(served: Served) -> None:
    async with browser(served) as it:
        tries = [(await it.ask("POST", SESSION, {"name": "a", "token": "b"})).status for _ in range(12)]
    assert tries[:10] == [401] * 10
    assert tries[-1] == 429


async def test_a_change_without_the_mark_is_refused(served: Served) -> None:
    """The cookie alone, which a browser sends for whoever tells it to, changes nothing."""
    async with browser(served) as it:
        await it.log_in(await served.new_user(Role.OPERATOR))
        for mark in ("", "wrong", mark_of("other"), "é"):
            answer = await it.ask("POST", "/api/v1/vms/web1:start", **{MARK.replace("-", "_"): mark})
            assert (answer.status, answer.body["code"]) == (403, "NOT_ALLOWED"), mark
        assert (await it.change("POST", "/api/v1/moves:check", {"vm": "web1", "host": "h2"})).status != 403


OTHER_SITES: tuple[dict[str, str], ...] = (
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
)


async def test_a_page_of_another_site_gets_nothing(served: Served) -> None:
    async with browser(served) as it:
        await it.log_in(await served.new_user(Role.ADMIN))
        for headers in OTHER_SITES:
            for path in ("/api/v1/vms", "/api/v1/events", SESSION):
                assert (await it.ask("GET", path, **headers)).status == 403, (path, headers)
            assert (await it.change("POST", "/api/v1/vms/web1:stop", **headers)).status == 403, headers


async def test_our_own_page_may_ask(served: Served) -> None:
    async with browser(served) as it:
        await it.log_in(await served.new_user(Role.VIEWER))
        assert (await it.ask("GET", "/api/v1/vms", Origin=served.url, Sec_Fetch_Site="same-origin")).status == 200


def test_who_sends_neither_header_is_no_browser() -> None:
    check_origin(Headers({"host": "m:7440"}), "https")
    check_origin(Headers({"host": "M:7440", "origin": "https://m:7440", "sec-fetch-site": "same-origin"}), "https")
    with pytest.raises(NotAllowed):
        check_origin(Headers({"host": "m:7440", "origin": "http://m:7440"}), "https")


async def test_a_stream_ends_with_its_session_and_with_its_token(served: Served) -> None:
    async with browser(served) as it:
        await it.log_in(await served.new_user(Role.VIEWER))
        tls = trusting_context(served.authority())
        async with it.http.get(
            f"{served.url}/api/v1/events", headers={"Cookie": f"{COOKIE}={it.secret}"}, ssl=tls,
            server_hostname="manager.kvmove",
        ) as stream:  # fmt: skip
            assert b"reset" in await stream.content.readline()
            await served.access.sessions.close(it.secret)
            await served.access.users.rotate("viewer-user")
            reading = asyncio.create_task(stream.content.read())
            served.h1.status_of_vms = []
            async with it.http.get(f"{served.url}/api/v1/vms", ssl=tls, server_hostname="manager.kvmove") as refused:
                assert refused.status == 401
            await served.inventory.refresh()
            assert b"removed" not in await asyncio.wait_for(reading, 30)


class Kept:
    """Sessions over a file, with a clock of their own."""

    def __init__(self, folder: Path) -> None:
        self.time = 1_000_000.0
        self.store = AccessStore(folder / "access.db")
        self.users = Users(self.store)
        self.sessions = self.again()

    def again(self) -> Sessions:
        return Sessions(self.store, self.users, lambda: self.time)


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    it = Kept(tmp_path)
    yield it
    it.store.close()


async def test_a_session_outlives_a_restart_and_ends_in_time(kept: Kept) -> None:
    user = await kept.users.add(NewUser(name="ann", role=UserRole.OPERATOR))
    opened = await kept.sessions.open(user.token)
    again = kept.again()
    assert again.identify(opened.secret) == (Role.OPERATOR, "ann")
    kept.time += LAST_SECONDS
    assert again.identify(opened.secret) is None
    await again.open(user.token)
    assert len(kept.store.sessions()) == 1  # the one that ended is forgotten


async def test_a_session_ends_with_the_token_that_opened_it(kept: Kept) -> None:
    user = await kept.users.add(NewUser(name="ann", role=UserRole.OPERATOR))
    opened = await kept.sessions.open(user.token)
    await kept.users.rotate("ann")
    assert kept.sessions.identify(opened.secret) is None


async def test_one_token_cannot_fill_the_memory(kept: Kept) -> None:
    user = await kept.users.add(NewUser(name="ann", role=UserRole.OPERATOR))
    for _ in range(MOST_OF_TOKEN):
        await kept.sessions.open(user.token)
    with pytest.raises(Busy):
        await kept.sessions.open(user.token)


def test_no_secret_is_on_disk(tmp_path: Path) -> None:
    async def open_one() -> str:
        it = Kept(tmp_path)
        user = await it.users.add(NewUser(name="ann", role=UserRole.OPERATOR))
        opened = await it.sessions.open(user.token)
        it.store.close()
        return opened.secret

    secret = asyncio.run(open_one())
    assert not [path for path in tmp_path.iterdir() if secret.encode() in path.read_bytes()]


def test_the_cookie_is_found_among_others() -> None:
    assert secret_of(Headers({"cookie": f"a=b; {COOKIE}=x=y; c=d"})) == "x=y"
    assert secret_of(Headers({"cookie": f"not{COOKIE}=x"})) == ""
    assert secret_of(Headers({})) == ""
