"""Powers hosts off and on by the commands of the configuration.

Invariants: a command is run without a shell, with `{host}` in its words replaced, and is killed when it takes too long.
That a host is to be off is on disk before its power goes; it is empty and under maintenance then (see `balancing`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kvmove.errors import KvmoveError, MoveFailed
from kvmove.manager.balance_settings import PowerSettings
from kvmove.manager.follow import now
from kvmove.manager.placement_store import PlacementStore

_LOG = logging.getLogger(__name__)


class HostPower:
    """The power of the hosts. What is off is kept in the store."""

    def __init__(self, settings: PowerSettings, store: PlacementStore) -> None:
        self._settings = settings
        self._store = store

    async def off(self, host: str, ready: Callable[[], Awaitable[None]]) -> None:
        """Power the host off. `ready` is asked right before the command, and raises if it must not be.

        :raise KvmoveError: that, or the command failed (MoveFailed); the host counts as on.
        """
        await self._store.change(powered_off={**self._store.kept.powered_off, host: now()})
        try:
            await ready()
            await self._run(self._settings.off, host)
        except KvmoveError:
            await self._is_on(host)
            raise

    async def on(self, host: str) -> None:
        """Power the host on, and take its marks away: it takes VMs once its agent answers.

        :raise MoveFailed: the command failed; the host counts as off still.
        """
        await self._run(self._settings.on, host)
        await self._is_on(host)
        await self._store.mark(host, None)

    async def _is_on(self, host: str) -> None:
        off = {name: since for name, since in self._store.kept.powered_off.items() if name != host}
        await self._store.change(powered_off=off)

    async def _run(self, command: tuple[str, ...], host: str) -> None:
        words = [word.replace("{host}", host) for word in command]
        _LOG.info("host %s: running %s", host, words[0])
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise MoveFailed(f"{words[0]} cannot be run: {error}", hint=_HINT) from error
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                _, said = await process.communicate()
        except TimeoutError as error:
            raise MoveFailed(
                f"{words[0]} for {host} did not end within {self._settings.timeout_seconds:g} s", hint=_HINT
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            words_of = said.decode(errors="replace").strip()[-300:]
            raise MoveFailed(f"{words[0]} for {host} ended with {process.returncode}: {words_of}", hint=_HINT)


_HINT = "mend the command in manager.toml, [balance.power]"
