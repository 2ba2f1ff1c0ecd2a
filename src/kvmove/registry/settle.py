"""A swap whose answer may be lost, followed until its outcome is known.

Invariant: what is returned was read from the registry. A swap that got no answer is not a swap that did not happen: its
request may still be on its way and arrive later. So the only ways out are another record than `expected`, or the
caller's own cancellation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kvmove.errors import Busy, KvmoveError, Unreachable
from kvmove.model.ownership import Ownership
from kvmove.registry.interface import Registry


async def swap_until_known(
    registry: Registry, expected: Ownership, new: Ownership, pause: Callable[[], Awaitable[None]]
) -> Ownership | None:
    """Ask for the swap until the record is no longer `expected`; give what it is then (None: no longer registered).

    The caller has won when the answer equals `new`. `pause` is awaited before each new attempt; what it raises ends
    the attempts, and the outcome is then unknown.

    :raise InvalidInput, NotAllowed: the registry says that the swap is not legal, or not this party's right.
    """
    while True:
        try:
            return await registry.swap(expected, new)
        except (Busy, Unreachable):
            stored = await read_until_known(registry, expected, pause)
            if stored != expected:
                return stored
        await pause()


async def read_until_known(
    registry: Registry, record: Ownership, pause: Callable[[], Awaitable[None]]
) -> Ownership | None:
    """The stored record of the VM of `record`, asked for until there is an answer, whatever is in the way."""
    while True:
        try:
            return await registry.get(record.vm)
        except KvmoveError:
            await pause()
