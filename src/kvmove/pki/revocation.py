"""The revocation list: certificates that count no more although they have not run out. `crl.pem`, X.509.

The authority signs it, so a party takes it from whoever has it, and TLS itself refuses a certificate that is on it (see
`contexts`). Its number grows with each change; a party never goes back to a smaller one.

It has no end: a list that ran out would shut everybody out, just when the manager that makes it is away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kvmove.errors import InvalidInput, NotAllowed, NotFound
from kvmove.model.access import IssuedCertificate
from kvmove.pki.authority import CA_CERT, CLOCK_SKEW, CRL, issued, load_authority, locked
from kvmove.pki.identity import Identity, Role
from kvmove.pki.private_files import write_private

_LOG = logging.getLogger(__name__)
_ONE_SECOND = timedelta(seconds=1)


def certificates(authority: Path) -> list[IssuedCertificate]:
    """All that the authority issued and that has not run out, oldest first, with whether it is revoked."""
    now, revoked = datetime.now(UTC), _serials(_read(authority / CRL))
    return [
        entry.model_copy(update={"revoked": int(entry.serial, 16) in revoked})
        for entry in issued(authority)
        if datetime.fromisoformat(entry.expires) > now
    ]


def find_party(authority: Path, name: str, role: str | None) -> Identity:
    """The party called `name` that was issued a certificate; `role` tells apart two of one name.

    :raise NotFound: there is none. :raise InvalidInput: there are several, or no such role.
    """
    if role is not None and role not in set(Role):
        raise InvalidInput(f"{role!r} is no role", hint=f"roles: {', '.join(Role)}")
    roles = sorted(
        {entry.role for entry in certificates(authority) if entry.name == name and role in (None, entry.role)}
    )
    if not roles:
        raise NotFound(f"no certificate that counts was issued to {role or 'a party'} {name}")
    if len(roles) > 1:
        raise InvalidInput(f"{name} is the name of several parties", hint=f"say which: {', '.join(roles)}")
    return Identity(Role(roles[0]), name)


def revoke(authority: Path, party: Identity) -> int:
    """Put all certificates that were issued to `party` so far on the list; how many of them were not on it.

    :raise NotFound, NotAllowed: as `load_authority`.
    """
    ca_certificate, ca_key = load_authority(authority)
    with locked(authority):
        old, now = _read(authority / CRL), datetime.now(UTC)
        known = certificates(authority)
        theirs = [entry for entry in known if (entry.role, entry.name) == party and not entry.revoked]
        if not theirs:
            return 0
        listed = [entry for entry in known if entry.revoked] + theirs
        # Two lists of one time would be alike for OpenSSL; one of the future would count for nobody.
        time = max(now - CLOCK_SKEW, old.last_update_utc + _ONE_SECOND) if old is not None else now - CLOCK_SKEW
        builder = x509.CertificateRevocationListBuilder(
            ca_certificate.subject, last_update=time, next_update=ca_certificate.not_valid_after_utc
        )
        builder = builder.add_extension(x509.CRLNumber(_number(old) + 1), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        for entry in listed:
            revoked = x509.RevokedCertificateBuilder(int(entry.serial, 16), time)
            builder = builder.add_revoked_certificate(revoked.build())
        made = builder.sign(ca_key, hashes.SHA256())
        write_private(authority / CRL, made.public_bytes(serialization.Encoding.PEM))
        return len(theirs)


def list_number(folder: Path) -> int:
    """The number of the list in a party's or the authority's folder; 0 when there is none."""
    return _number(_read(folder / CRL))


def take_list(folder: Path, pem: bytes) -> bool:
    """Put a list that came from elsewhere into a party's folder, if it is newer; whether it was.

    :raise NotAllowed: it is no list of the party's own authority.
    """
    try:
        ca = x509.load_pem_x509_certificate((folder / CA_CERT).read_bytes())
        new = x509.load_pem_x509_crl(pem)
    except ValueError as error:
        raise NotAllowed("the revocation list cannot be read") from error
    key = ca.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not new.is_signature_valid(key):
        raise NotAllowed("the revocation list is not signed by our authority")
    if _number(new) <= list_number(folder):
        return False
    write_private(folder / CRL, pem)
    return True


class Revocations:
    """The list in a party's folder as it is now: looked at whenever asked, and read again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / CRL
        self._stamp: tuple[int, int] | None = None
        self._serials: frozenset[int] = frozenset()

    def hold(self, serial: int | None) -> bool:
        """Whether the certificate with this serial number is revoked. A list that cannot be read changes nothing."""
        try:
            seen = self._file.stat()
        except FileNotFoundError:
            return serial in self._serials
        if (seen.st_ino, seen.st_mtime_ns) != self._stamp:
            self._stamp = (seen.st_ino, seen.st_mtime_ns)
            try:
                self._serials = _serials(_read(self._file))
            except NotAllowed as error:
                _LOG.error("%s; the one before counts on", error.detail)
        return serial in self._serials

    def refuse(self, peercert: Mapping[str, Any] | None) -> None:
        """:raise NotAllowed: the certificate, as `getpeercert()` gives it, is revoked."""
        if self.hold(serial_of(peercert)):
            raise NotAllowed("your certificate is revoked", hint="join again, or ask an admin for another")


def serial_of(peercert: Mapping[str, Any] | None) -> int | None:
    """The serial number of a certificate as `SSLSocket.getpeercert()` gives it; None when there is none."""
    return int(peercert["serialNumber"], 16) if peercert else None


def _read(file: Path) -> x509.CertificateRevocationList | None:
    try:
        return x509.load_pem_x509_crl(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise NotAllowed(f"the revocation list {file} is damaged", hint="copy the manager's crl.pem there") from error


def _serials(found: x509.CertificateRevocationList | None) -> frozenset[int]:
    return frozenset() if found is None else frozenset(entry.serial_number for entry in found)


def _number(found: x509.CertificateRevocationList | None) -> int:
    return 0 if found is None else found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
