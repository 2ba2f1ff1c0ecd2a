"""One command's conversation with the manager."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kvmove.cli.options import Options
from kvmove.cli.settings import find_target
from kvmove.client.manager import ManagerClient

Answer = TypeVar("Answer")


def ask(options: Options, work: Callable[[ManagerClient], Awaitable[Answer]]) -> Answer:
    """What `work` makes of the manager that the options name; the connection is closed behind it.

    :raise InvalidInput: the options name no manager.
    :raise Unreachable: the manager does not answer.
    """
    return asyncio.run(_ask(options, work))


async def _ask(options: Options, work: Callable[[ManagerClient], Awaitable[Answer]]) -> Answer:
    target = find_target(options)
    async with ManagerClient(target.server, target.pki) as manager:
        return await work(manager)
