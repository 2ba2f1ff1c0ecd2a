"""When a party's certificates end. Reads files that are no secret; never a key."""

from datetime import datetime
from pathlib import Path

from cryptography import x509

from kvmove.errors import NotAllowed, NotFound
from kvmove.pki.authority import CA_CERT, CERT


def certificate_end(file: Path) -> datetime:
    """The moment at which the certificate in `file` (PEM) ends, UTC.

    :raise NotFound: there is no such file.
    :raise NotAllowed: it cannot be read, or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    except FileNotFoundError as error:
        raise NotFound(f"there is no certificate {file}") from error
    except (OSError, ValueError) as error:
        raise NotAllowed(f"{file} cannot be read as a certificate: {error}") from error


def expiries(folder: Path) -> dict[Path, datetime]:
    """The end of each certificate in a party's folder: its own, and its authority's. Raises as `certificate_end`."""
    return {folder / name: certificate_end(folder / name) for name in (CERT, CA_CERT)}


def first_end(folder: Path) -> datetime:
    """When the first of the party's own certificate and its authority's ends. Raises as `certificate_end`."""
    return min(expiries(folder).values())
