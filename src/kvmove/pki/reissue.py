"""The authority's side of renewal: another certificate for who shows one that counts.

Invariant: whether the shown certificate counts is looked up in the authority's own lists, alone with them until the new
one is recorded. So a renewal comes before a revocation, which then has the new certificate too, or after it, and is
refused; there is nothing in between.

It does not check that the certificate was shown; TLS has done that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from kvmove.errors import NotAllowed
from kvmove.model.access import IssuedCertificate
from kvmove.pki.authority import LEAF_VALIDITY, certify, locked, requested_key
from kvmove.pki.identity import Identity
from kvmove.pki.revocation import certificates


def reissue(
    authority: Path, request: str, party: Identity, serial: int, *, valid_for: timedelta = LEAF_VALIDITY
) -> x509.Certificate:
    """A certificate for the key of `request` and for `party`, who showed the one with this serial number.

    :raise NotAllowed: that one is revoked, has run out, or is not of this authority's list. Nothing is issued.
    :raise InvalidInput, NotFound: as `sign_request`.
    """
    key = requested_key(request)
    with locked(authority):
        check_renewal(certificates(authority), party, serial)
        return certify(authority, party, key, valid_for)


def check_renewal(known: Sequence[IssuedCertificate], party: Identity, serial: int) -> None:
    """Return when `party` may have another certificate for that with this serial number. Pure.

    :raise NotAllowed: it is revoked, or not in `known`, the party's certificates that have not run out.
    """
    shown = [it for it in known if int(it.serial, 16) == serial and (it.role, it.name) == party]
    if not shown:
        raise NotAllowed(
            f"the authority has no certificate {serial:x} of {party} that counts",
            hint="join again, or ask an admin for another",
        )
    if shown[0].revoked:
        raise NotAllowed("your certificate is revoked", hint="join again, or ask an admin for another")
