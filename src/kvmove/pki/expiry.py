"""Until when a party's certificates are valid."""

from datetime import datetime
from pathlib import Path

from cryptography import x509

from kvmove.errors import NotAllowed, NotFound
from kvmove.pki.authority import CA_CERT, CERT


def expiries(folder: Path) -> dict[Path, datetime]:
    """The end of each certificate in a party's folder: its own, and its authority's.

    :raise NotFound, NotAllowed: one is missing or broken.
    """
    found = {}
    for path in (folder / name for name in (CERT, CA_CERT)):
        try:
            found[path] = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        except FileNotFoundError as error:
            raise NotFound(f"the certificate {path} is missing", hint="issue it: kvmove pki issue") from error
        except ValueError as error:
            raise NotAllowed(f"the certificate {path} is broken: {error}", hint="issue it again") from error
    return found
