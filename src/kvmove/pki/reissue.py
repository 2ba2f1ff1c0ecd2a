"""The authority's side of renewal: another certificate for who shows one that counts.

Invariant: whether the shown certificate counts is looked up in the authority's own lists, alone with them until the new
one is recorded. So a renewal comes before a revocation, which then has the new certificate too, or after it, and is
refused; there is nothing in between. A party has a certificate more in an hour at most, and none in the first half of
the life of the one that it shows: nobody fills the authority's list by asking.

It does not check that the certificate was shown; TLS has done that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from kvmove.errors import Busy, NotAllowed
from kvmove.model.access import IssuedCertificate
from kvmove.pki.authority import LEAF_VALIDITY, certify, locked, requested_key
from kvmove.pki.identity import Identity
from kvmove.pki.revocation import certificates

RENEWED_FROM = 1 / 2
"""Of a certificate's life. Parties ask when two thirds are over; the rest is for clocks that differ."""

RENEWALS_APART = timedelta(hours=1)
"""A party whose answer was lost has another try after this; a third of the shortest life, a day, is eight hours."""


def reissue(
    authority: Path, request: str, party: Identity, serial: int, *, valid_for: timedelta = LEAF_VALIDITY
) -> x509.Certificate:
    """A certificate for the key of `request` and for `party`, who showed the one with this serial number.

    :raise NotAllowed: that one is revoked, has run out, or is not of this authority's list. Nothing is issued.
    :raise Busy: it is too early. Nothing is issued.
    :raise InvalidInput, NotFound: as `sign_request`.
    """
    key = requested_key(request)
    with locked(authority):
        check_renewal(certificates(authority), party, serial, datetime.now(UTC))
        return certify(authority, party, key, valid_for)


def check_renewal(known: Sequence[IssuedCertificate], party: Identity, serial: int, now: datetime) -> None:
    """Return when `party` may have another certificate for that with this serial number. Pure.

    :raise NotAllowed: it is revoked, or not in `known`, the certificates that have not run out.
    :raise Busy: half of its life is not over, or the party got another one less than `RENEWALS_APART` ago.
    """
    theirs = [it for it in known if (it.role, it.name) == party]
    shown = [it for it in theirs if int(it.serial, 16) == serial]
    if not shown:
        raise NotAllowed(
            f"the authority has no certificate {serial:x} of {party} that counts",
            hint="join again, or ask an admin for another",
        )
    if shown[0].revoked:
        raise NotAllowed("your certificate is revoked", hint="join again, or ask an admin for another")
    begun, ends = (datetime.fromisoformat(moment) for moment in (shown[0].issued, shown[0].expires))
    latest = max(datetime.fromisoformat(it.issued) for it in theirs)
    earliest = max(begun + (ends - begun) * RENEWED_FROM, latest + RENEWALS_APART)
    if now < earliest:
        raise Busy(
            f"it is too early for another certificate of {party}",
            hint=f"there is one from {earliest.isoformat(timespec='seconds')} on",
        )
