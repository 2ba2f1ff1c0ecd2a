"""Keeps a party's certificate and its revocation list fresh, by asking the manager as that very party.

Invariant: nothing that comes is installed before it is checked against the authority that we know. A manager that is
away delays both and harms nothing: the certificate has a third of its life left when it is first asked for another.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from kvmove.client.http import HttpClient
from kvmove.errors import KvmoveError
from kvmove.model.access import Certified, RenewRequest, RevocationList
from kvmove.pki.identity import Identity, Role
from kvmove.pki.renewal import install_renewed, is_due, request_with_own_key
from kvmove.pki.revocation import list_number, take_list

_LOG = logging.getLogger(__name__)
_CERTIFIED = TypeAdapter(Certified)
_LIST = TypeAdapter(RevocationList)

PREFIX = "/pki/v1"
MANAGER = Identity(Role.MANAGER, "manager")

CYCLE_SECONDS = 5.0
"""So long may a revoked certificate count with a party that reaches the manager."""


class Renewal:
    """The certificates in `folder`, of which the manager at `url` is asked.

    :raise NotFound, NotAllowed: the files are missing or broken.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._http = HttpClient.over_tls(url, folder, MANAGER)
        self._trouble = ""

    async def run(self) -> None:
        """Look for both again and again, until cancelled. What goes wrong is told in the log, once."""
        while True:
            trouble = ""
            try:
                await self.fetch_list()
                await self.renew_if_due()
            except (KvmoveError, OSError) as error:
                trouble = str(error)
            if trouble and trouble != self._trouble:
                _LOG.warning("certificate and revocation list are as they were: %s", trouble)
            self._trouble = trouble
            await asyncio.sleep(CYCLE_SECONDS)

    async def fetch_list(self) -> None:
        """Have the manager's revocation list, if it has a newer one.

        :raise KvmoveError, OSError: it could not be had; the one that is there counts on.
        """
        known = await asyncio.to_thread(list_number, self._folder)
        answer = await self._http.ask(_LIST, "GET", f"{PREFIX}/revocations?after={known}")
        if answer.list is not None and await asyncio.to_thread(take_list, self._folder, answer.list.encode()):
            _LOG.info("revocation list number %d counts from now on", answer.number)

    async def renew_if_due(self, now: datetime | None = None) -> None:
        """Have another certificate, if two thirds of this one's life are over by `now`, by default this instant.

        :raise KvmoveError, OSError: it could not be had; the one that is there is shown on.
        """
        if not await asyncio.to_thread(is_due, self._folder, now):
            return
        body = RenewRequest(request=await asyncio.to_thread(request_with_own_key, self._folder))
        answer = await self._http.ask(_CERTIFIED, "POST", f"{PREFIX}/renew", body)
        await asyncio.to_thread(install_renewed, self._folder, answer.certificate)
        _LOG.info("the certificate in %s is renewed", self._folder)

    async def close(self) -> None:
        await self._http.close()
