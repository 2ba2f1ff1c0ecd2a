"""The registry at the other end of the network: the manager keeps it, an agent asks.

Invariant: what this engine raises as something else than Unreachable was decided by the registry. All the rest is
Unreachable: a lost answer above all, but a certificate that has run out too. The change may have happened, or may yet.
"Not registered" is an answer with a body (`null`), so that a wrong address, which answers 404 to everything, is never
taken for it.

It does not retry a change; see `settle` for following one until its outcome is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from kvmove.errors import Busy, InvalidInput, KvmoveError, NotAllowed, Unreachable
from kvmove.model.names import Name
from kvmove.model.ownership import Ownership
from kvmove.model.strict import Strict
from kvmove.pki.identity import Identity, Role
from kvmove.pki.peer import NotTrusted, Peer

PREFIX = "/registry/v1"
_TIMEOUT = 5.0
_VERDICTS = (Busy, InvalidInput, NotAllowed)
"""What the registry answers when it has decided. Any other error leaves open whether the change took effect."""


class ClaimRequest(Strict):
    """Body of `POST /registry/v1/claim`."""

    vm: UUID
    host: Name


class SwapRequest(Strict):
    """Body of `POST /registry/v1/swap`."""

    expected: Ownership
    new: Ownership


class ReleaseRequest(Strict):
    """Body of `POST /registry/v1/release`."""

    expected: Ownership


class RemoteRegistry:
    """The registry of the manager at `url` (`https://IP:7440`), asked as the agent whose certificates are in `pki`.

    :param timeout: seconds that one question may take; then it is Unreachable.
    """

    def __init__(self, url: str, pki: Path, *, timeout: float = _TIMEOUT) -> None:
        self._peer = Peer.over_tls(url, pki, Identity(Role.MANAGER, "manager"))
        self._timeout = timeout

    async def get(self, vm: UUID) -> Ownership | None:
        answer = await self._ask("GET", f"/ownership/{vm}")
        return None if answer is None else self._record(answer)

    async def list(self) -> list[Ownership]:
        answer = await self._ask("GET", "/ownership")
        if not isinstance(answer, list):
            raise self._not_understood()
        return [self._record(record) for record in answer]

    async def claim(self, vm: UUID, host: str) -> Ownership:
        return self._record(await self._ask("POST", "/claim", ClaimRequest(vm=vm, host=host)))

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        return self._record(await self._ask("POST", "/swap", SwapRequest(expected=expected, new=new)))

    async def release(self, expected: Ownership) -> None:
        await self._ask("POST", "/release", ReleaseRequest(expected=expected))

    async def close(self) -> None:
        await self._peer.close()

    async def _ask(self, method: str, path: str, body: Strict | None = None) -> Any:
        content = None if body is None else body.model_dump(mode="json")
        try:
            return await self._peer.call(method, PREFIX + path, content, timeout=self._timeout)
        except NotTrusted as error:
            raise Unreachable(error.detail, hint=error.hint) from error
        except (*_VERDICTS, Unreachable):
            raise
        except KvmoveError as error:
            raise Unreachable(f"the registry of {self._peer.shown} failed: {error.detail}", hint=error.hint) from error

    def _record(self, answer: object) -> Ownership:
        try:
            return Ownership.model_validate(answer)
        except ValidationError as error:
            raise self._not_understood() from error

    def _not_understood(self) -> Unreachable:
        return Unreachable(
            f"the answer of the registry of {self._peer.shown} is not understood",
            hint="is kvmove of the same version there?",
        )
