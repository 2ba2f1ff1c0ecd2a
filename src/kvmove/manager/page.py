"""The web page: the files that its build left in `web_dist`, and what a browser is told about them.

Invariant: only files that were there when the manager started are served, by their names, so no path leads elsewhere.
The page loads nothing from other sites, is shown in no other page, and runs no script but its own files. Names with a
hash in them may be kept for ever; `/` is asked for anew each time.

The page knows nothing by itself: all that it shows comes from the API, as its user's role allows. Without Node there
is no build, and `/` says so.
"""

import gzip
import mimetypes
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from kvmove.errors import NotFound

DIST = Path(__file__).parent / "web_dist"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_SQUEEZED = frozenset({"text/html", "text/css", "text/javascript", "image/svg+xml"})


class _File(NamedTuple):
    content: bytes
    squeezed: bytes | None
    kind: str


def is_page(path: str) -> bool:
    """Whether this path is of the page; a link from another site may lead there."""
    return path == "/" or path.startswith("/assets/")


def page_router(dist: Path = DIST) -> APIRouter:
    """`/` and `/assets/NAME`."""
    router = APIRouter(include_in_schema=False)
    files = _load(dist)

    @router.get("/")
    async def index(request: Request) -> Response:
        if "index.html" not in files:
            raise NotFound("this manager has no web page", hint="`make web` builds it, with Node 20.19 or newer")
        return _answer(files["index.html"], request, "no-cache")

    @router.get("/assets/{name}")
    async def asset(name: str, request: Request) -> Response:
        found = files.get(f"assets/{name}")
        if found is None:
            raise NotFound(f"the page has no file {name!r}", hint="load the page again")
        return _answer(found, request, _FOR_EVER)

    return router


def _load(dist: Path) -> dict[str, _File]:
    return {str(path.relative_to(dist)): _file(path) for path in sorted(dist.rglob("*")) if path.is_file()}


def _file(path: Path) -> _File:
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return _File(content, gzip.compress(content, mtime=0) if kind in _SQUEEZED else None, kind)


def _answer(file: _File, request: Request, keep: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": keep, "Vary": "Accept-Encoding"}
    if file.squeezed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.squeezed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.kind)
    return Response(file.content, headers=headers, media_type=file.kind)
