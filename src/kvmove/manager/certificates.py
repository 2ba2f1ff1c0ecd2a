"""The authority at the manager: signs what parties ask for, revokes, and keeps the manager's own certificate fresh.

Invariant: a party gets a certificate for who it proved to be, never for who it says it is. What is revoked is refused
from that moment by this manager, and by each agent once it has fetched the list.

Blocking work (files, signatures) runs in threads. Who may ask is the gate's to say.
"""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from kvmove.errors import CheckFailed, KvmoveError
from kvmove.model.access import Certified, IssuedCertificate, RevocationList
from kvmove.pki.authority import CA_CERT, CRL, LEAF_VALIDITY, sign_request
from kvmove.pki.identity import Identity, Role
from kvmove.pki.reissue import reissue
from kvmove.pki.renewal import install_renewed, is_due, request_with_own_key
from kvmove.pki.revocation import Revocations, certificates, find_party, list_number, revoke, take_list

_LOG = logging.getLogger(__name__)

CYCLE_SECONDS = 5.0
_SELF = Identity(Role.MANAGER, "manager")


class Certificates:
    """`authority` and `pki` are folders: the authority's, and the manager's own. The authority may be elsewhere: then
    what needs it says so."""

    def __init__(self, authority: Path, pki: Path, valid_for: timedelta = LEAF_VALIDITY) -> None:
        self._authority = authority
        self._pki = pki
        self._valid_for = valid_for
        self._trouble = ""
        self.revocations = Revocations(pki)

    async def run(self) -> None:
        """Keep the manager's own files fresh, until cancelled: also after a command changed the authority's."""
        while True:
            trouble = ""
            try:
                await asyncio.to_thread(self.refresh)
            except (KvmoveError, OSError) as error:
                trouble = str(error)
            if trouble and trouble != self._trouble:
                _LOG.warning("the manager's own certificate is as it was: %s", trouble)
            self._trouble = trouble
            await asyncio.sleep(CYCLE_SECONDS)

    def refresh(self) -> None:
        """Take over the authority's revocation list, and renew the manager's own certificate if it is due.

        :raise KvmoveError, OSError: it could not be done; what is there counts on.
        """
        self._take_list()
        if is_due(self._pki):
            self._authority_is_here()
            made = sign_request(self._authority, request_with_own_key(self._pki), _SELF, valid_for=self._valid_for)
            install_renewed(self._pki, made.public_bytes(Encoding.PEM).decode())
            _LOG.info("the manager's certificate is renewed")

    def own_authority(self) -> str:
        """The authority's certificate, PEM."""
        return (self._pki / CA_CERT).read_text()

    async def certify(self, request: str, identity: Identity) -> Certified:
        """A certificate for `identity`, who has proved to be that.

        :raise InvalidInput: the request is none of ours.
        :raise CheckFailed: the authority is not on this machine.
        """
        self._authority_is_here()
        made = await asyncio.to_thread(
            sign_request, self._authority, request, identity, valid_for=self._valid_for
        )  # fmt: skip
        return self._certified(made, identity)

    async def renew(self, request: str, party: Identity, serial: int) -> Certified:
        """Another certificate for `party`, who showed the one with this serial number. Raises as `reissue`, too.

        :raise CheckFailed: the authority is not on this machine.
        """
        self._authority_is_here()
        made = await asyncio.to_thread(
            reissue, self._authority, request, party, serial, valid_for=self._valid_for
        )  # fmt: skip
        return self._certified(made, party)

    def list_after(self, number: int) -> RevocationList:
        """The revocation list, if its number is greater than `number`."""
        own = list_number(self._pki)
        return RevocationList(number=own, list=(self._pki / CRL).read_text() if own > number else None)

    async def all(self) -> list[IssuedCertificate]:
        """What was issued and has not run out.

        :raise CheckFailed: the authority is not on this machine.
        """
        self._authority_is_here()
        return await asyncio.to_thread(certificates, self._authority)

    async def party(self, name: str, role: str | None) -> Identity:
        """The party of that name. Raises as `revocation.find_party`."""
        self._authority_is_here()
        return await asyncio.to_thread(find_party, self._authority, name, role)

    async def revoke(self, party: Identity) -> int:
        """Revoke all certificates of a party; how many were not revoked before.

        :raise CheckFailed: the authority is not on this machine, or the party is the manager, who could not tell.
        """
        self._authority_is_here()
        if party.role is Role.MANAGER:
            raise CheckFailed(
                "the manager does not revoke its own certificate: no agent would speak to it any more",
                hint="on its machine: kvmove pki revoke AUTHORITY manager, then issue it another with kvmove pki issue",
            )
        count = await asyncio.to_thread(revoke, self._authority, party)
        await asyncio.to_thread(self._take_list)
        _LOG.info("%d certificates of %s are revoked", count, party)
        return count

    def _certified(self, made: Certificate, party: Identity) -> Certified:
        _LOG.info("certificate %x is issued to %s", made.serial_number, party)
        return Certified(certificate=made.public_bytes(Encoding.PEM).decode(), authority=self.own_authority())

    def _take_list(self) -> None:
        if (self._authority / CRL).exists():
            take_list(self._pki, (self._authority / CRL).read_bytes())

    def _authority_is_here(self) -> None:
        if not (self._authority / CA_CERT).exists():
            raise CheckFailed(
                f"this manager has no authority in {self._authority}",
                hint="see `authority` in manager.toml, or use kvmove pki where the authority is",
            )
