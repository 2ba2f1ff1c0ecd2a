"""A party's own side of its certificate: its key and request, what it installs, and when it is time for another.

Invariant: the key is made here and never leaves this machine. A renewal keeps the key, so that one file is replaced and
key and certificate fit at every instant; a new key comes with joining again.

It asks nobody: see `client.renewal` for that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kvmove.errors import InvalidInput, NotAllowed, NotFound
from kvmove.pki.authority import CA_CERT, CERT, CLOCK_SKEW, KEY, key_pem, new_key
from kvmove.pki.private_files import private_folder, write_private

RENEWED_AFTER = 2 / 3
"""Of a certificate's life: the last third is for a manager that is down, or a host that is off."""


def renewal_due(issued: datetime, expires: datetime) -> datetime:
    """When a certificate of this life is to be renewed."""
    return issued + (expires - issued) * RENEWED_AFTER


def is_due(folder: Path, now: datetime | None = None) -> bool:
    """Whether the certificate in a party's folder is to be renewed by now.

    :raise NotFound, NotAllowed: there is none that can be read.
    """
    found = _certificate(folder / CERT)
    issued = found.not_valid_before_utc + CLOCK_SKEW
    return (now or datetime.now(UTC)) >= renewal_due(issued, found.not_valid_after_utc)


def new_request() -> tuple[bytes, str]:
    """A new key and a certificate request for it, both PEM."""
    key = new_key()
    return key_pem(key), _request(key)


def request_with_own_key(folder: Path) -> str:
    """A certificate request for the key that is in the party's folder.

    :raise NotFound, NotAllowed: there is none that can be read.
    """
    file = folder / KEY
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise NotFound(f"{file} is missing") from error
    except ValueError as error:
        raise NotAllowed(f"{file} cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NotAllowed(f"{file} is not a key of ours")
    return _request(key)


def install_all(folder: Path, key: bytes, certificate: str, authority: str) -> None:
    """Fill a party's folder, the certificate last: what is there before it is no party yet."""
    private_folder(folder)
    write_private(folder / KEY, key)
    write_private(folder / CA_CERT, authority.encode())
    write_private(folder / CERT, certificate.encode())


def install_renewed(folder: Path, certificate: str) -> None:
    """Put a renewed certificate in place of the old one.

    :raise NotAllowed: it is not for our key, or not of our authority; the old one stays.
    """
    try:
        new = x509.load_pem_x509_certificate(certificate.encode())
        new.verify_directly_issued_by(_certificate(folder / CA_CERT))
    except Exception as error:  # cryptography raises many kinds for what may have come
        raise NotAllowed("the renewed certificate is not one of our authority") from error
    old = _certificate(folder / CERT)
    if new.public_key() != old.public_key() or new.subject != old.subject:
        raise NotAllowed("the renewed certificate is not for us")
    write_private(folder / CERT, certificate.encode())


def fingerprint(authority: str) -> str:
    """SHA-256 of the authority's certificate, hexadecimal.

    :raise InvalidInput: it is no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(authority.encode()).fingerprint(hashes.SHA256()).hex()
    except ValueError as error:
        raise InvalidInput("what was given as the authority's certificate is none") from error


def _request(key: ec.EllipticCurvePrivateKey) -> str:
    """It names nobody: who we are is for the manager to know."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kvmove")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{file} is missing") from error
    except ValueError as error:
        raise NotAllowed(f"{file} cannot be read") from error
