"""The page's files: what is served, what a browser is told about it, and that no path leads elsewhere."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import Message

from kvmove.manager.answers import add_handlers
from kvmove.manager.page import POLICY, page_router

SCRIPT = b"export const a = 1;" * 100


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    (tmp_path / "secret").write_text("not the page's")
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html>")
    (dist / "assets" / "app-1a2b.js").write_bytes(SCRIPT)
    return _app(dist)


def _app(dist: Path) -> FastAPI:
    app = FastAPI()
    app.include_router(page_router(dist))
    add_handlers(app)
    return app


async def ask(app: FastAPI, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": raw, "scheme": "https"}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(Request(scope).scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


async def test_the_page_may_load_nothing_from_elsewhere_and_be_in_no_frame(app: FastAPI) -> None:
    status, headers, body = await ask(app, "/")
    assert (status, body) == (200, b"<!doctype html>")
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY and "frame-ancestors 'none'" in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"


async def test_assets_are_kept_for_ever_and_squeezed_for_whoever_takes_it(app: FastAPI) -> None:
    status, headers, body = await ask(app, "/assets/app-1a2b.js")
    assert (status, body, headers["content-type"]) == (200, SCRIPT, "text/javascript; charset=utf-8")
    assert "immutable" in headers["cache-control"]
    _, headers, body = await ask(app, "/assets/app-1a2b.js", accept_encoding="br, gzip")
    assert headers["content-encoding"] == "gzip" and len(body) < len(SCRIPT) / 5


@pytest.mark.parametrize("path", ["/assets/../secret", "/assets/..%2fsecret", "/assets/", "/assets/../index.html"])
async def test_no_path_leads_elsewhere(app: FastAPI, path: str) -> None:
    status, _, body = await ask(app, path)
    assert status == 404
    assert b"not the page's" not in body


async def test_without_a_build_the_page_says_what_is_missing(tmp_path: Path) -> None:
    status, _, body = await ask(_app(tmp_path / "none"), "/")
    assert status == 404
    assert b"make web" in body
