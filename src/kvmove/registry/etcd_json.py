"""How keys, values and operations look in the JSON of etcd's gateway. Pure.

Keys and values are base64; a field that is zero is left out of an answer.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from kvmove.errors import Unreachable

Json = dict[str, Any]
TXN, RANGE, WATCH = "/v3/kv/txn", "/v3/kv/range", "/v3/watch"


def encode(text: str) -> str:
    return b64encode(text.encode()).decode()


def decode(text: str) -> str:
    return b64decode(text).decode()


def below(folder: str) -> Json:
    """The range of all keys that begin with `folder`, which ends with a slash."""
    return {"key": encode(folder), "range_end": encode(folder[:-1] + "0")}  # 0 comes after /


def put(key: str, value: str, lease: str = "0") -> Json:
    """Under that lease; 0 is none."""
    return {"request_put": {"key": encode(key), "value": encode(value), "lease": lease}}


def delete(key: str) -> Json:
    return {"request_delete_range": {"key": encode(key)}}


def unchanged(key: str, revision: str) -> Json:
    """The condition that `key` was last changed at `revision`; 0: that there is no such key."""
    return {"key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def none_after(folder: str, revision: int) -> Json:
    """The condition that no key below `folder` was made or changed after `revision`; some may have gone."""
    return below(folder) | {"target": "MOD", "result": "LESS", "mod_revision": str(revision + 1)}


def exists(key: str) -> Json:
    return {"key": encode(key), "target": "VERSION", "result": "GREATER", "version": "0"}


def damaged(what: str, error: Exception) -> Unreachable:
    return Unreachable(f"{what} cannot be read: {error}", hint="was it written by a newer kvmove, or by hand?")
