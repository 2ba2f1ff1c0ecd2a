"""Whether a browser asks on behalf of a page of ours. Pure.

A browser sends its session's cookie, or shows its certificate, for whoever tells it to ask: also for a page of another
site. It says whose page that is in two headers that no page can set, and we refuse all but our own.

Programs send neither header, and are not what this is about: they carry no cookie that others could use.
"""

from starlette.datastructures import Headers

from kvmove.errors import NotAllowed

_OURS = frozenset({"same-origin", "none"})
"""`none` is a person who typed the address."""


def check_origin(headers: Headers, scheme: str) -> None:
    """Return when the request may come from a browser at all; `scheme` is that of the connection.

    :raise NotAllowed: a page of another site made the browser ask.
    """
    own = f"{scheme}://{headers.get('host', '')}"
    origin = headers.get("origin")
    if (origin is not None and origin.lower() != own.lower()) or headers.get("sec-fetch-site", "none") not in _OURS:
        raise NotAllowed(
            "a page of another site asked for this", hint=f"use the page at {own}, or a program with a token"
        )
