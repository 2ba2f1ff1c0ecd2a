"""One command's conversation with the manager."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from kvmove.cli.options import Options
from kvmove.cli.settings import Target, find_target
from kvmove.client.manager import ManagerClient, TokenUser
from kvmove.client.renewal import Renewal
from kvmove.errors import InvalidInput, KvmoveError
from kvmove.pki.renewal import is_due

Answer = TypeVar("Answer")


def ask(options: Options, work: Callable[[ManagerClient], Awaitable[Answer]]) -> Answer:
    """What `work` makes of the manager that the options name; the connection is closed behind it.

    :raise InvalidInput: the options name no manager.
    :raise Unreachable: the manager does not answer.
    """
    return asyncio.run(_ask(options, work))


async def _ask(options: Options, work: Callable[[ManagerClient], Awaitable[Answer]]) -> Answer:
    target = find_target(options)
    async with ManagerClient(target.server, target.pki, user=_user(target)) as manager:
        answer = await work(manager)
    if target.pki is not None:
        await _renew(target.pki, target.server)
    return answer


def _user(target: Target) -> TokenUser | None:
    """:raise InvalidInput: there is a token, and no certificate of the authority that the manager is known by."""
    if target.token is None or target.ca is None:
        return None
    try:
        return TokenUser(target.token, target.ca.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the authority's certificate {target.ca} cannot be read",
            hint="copy the manager's ca.pem there (KVMOVE_CA)",
        ) from error


async def _renew(pki: Path, server: str) -> None:
    """Renew the certificate that served so well, when it is time. No harm when it cannot be: the next command tries."""
    with suppress(KvmoveError, OSError):
        if is_due(pki):
            renewal = Renewal(pki, server)
            try:
                await renewal.renew_if_due()
            finally:
                await renewal.close()
