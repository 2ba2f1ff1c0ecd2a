"""What every engine of the registry offers. The rules of change are in `ownership`; this is about keeping the record.

Invariant: an answer is the truth at some moment between the call and its return, durable before it is given. Where an
engine cannot tell, it raises `Unreachable`, and a change may have happened or may yet happen: the caller reads until it
knows (`settle.swap_until_known`), and never guesses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol
from uuid import UUID

from kvmove.model.ownership import Ownership


class Registry(Protocol):
    """Who owns which VM. Every method raises Unreachable when it cannot tell."""

    async def get(self, vm: UUID) -> Ownership | None:
        """The record of a VM; None when it is not registered."""

    async def list(self) -> list[Ownership]:
        """All records, ordered by UUID."""

    async def claim(self, vm: UUID, host: str) -> Ownership:
        """Register a VM that nobody owns as owned by `host`; when the host owns it already, its record as it is.

        The epoch is 1, or one more than the last one of a VM that was released under the same UUID.

        :raise Busy: another host owns it.
        """

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        """Put `new` in place of `expected`, as one step, and give `new` back.

        :raise Busy: the stored record is another than `expected`; it stays as it is.
        :raise InvalidInput: no event turns `expected` into `new`.
        """

    async def release(self, expected: Ownership) -> None:
        """Forget a VM that is deleted; only its epoch is kept.

        :raise Busy: the stored record is another than `expected`, or the VM moves.
        """

    async def close(self) -> None:
        """Let go of files and connections. Later calls raise Unreachable."""


class FullList(NamedTuple):
    """All records, as of `revision`: they stand in place of all that was known."""

    records: list[Ownership]
    revision: int


class Change(NamedTuple):
    """The record of a VM after a change; None when it was released."""

    vm: UUID
    record: Ownership | None
    revision: int


class Watchable(Protocol):
    """An engine that tells of changes by itself, whoever made them."""

    def watch(self, after: int | None = None) -> AsyncGenerator[FullList | Change, None]:
        """Every change after the revision `after`, in order, each once, for ever.

        A full list comes first without `after`, and in place of changes that the engine does not keep any more. A
        connection that breaks is made anew and nothing is missed, so what was heard may be old, as any news.

        :raise Unreachable: the engine was closed, or its file failed.
        """
