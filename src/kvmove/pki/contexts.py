"""TLS contexts of a party: TLS 1.3 alone, both sides show a certificate of the one authority.

Invariant: no context made here accepts a connection without a valid certificate of the cluster's authority, and a
client checks the *name* of the server it asked for as well. There is no switch to turn either off.

In TLS 1.3 a client has finished its handshake before the server has judged the client's certificate: a refused client
learns of it when it first reads.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from kvmove.errors import NotAllowed, NotFound
from kvmove.pki.authority import CA_CERT, CERT, KEY


def server_context(folder: Path) -> ssl.SSLContext:
    """A context for listening as the party whose folder this is. A client must show a certificate.

    No session tickets: each connection proves its identity anew.

    :raise NotFound: a file is missing.
    :raise NotAllowed: the key can be read by others, or does not fit the certificate.
    """
    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *_files(folder))
    context.num_tickets = 0
    return context


def client_context(folder: Path) -> ssl.SSLContext:
    """A context for connecting as the party whose folder this is. Pass the peer's `dns_name` as `server_hostname`.

    :raise NotFound: a file is missing.
    :raise NotAllowed: the key can be read by others, or does not fit the certificate.
    """
    return client_context_of(*_files(folder))


def client_context_of(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """A context for connecting to what has its certificate of the authority `ca`, wherever the files lie.

    :raise NotFound: a file is missing.
    :raise NotAllowed: the key can be read by others, or does not fit the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return _load(context, ca, cert, key)


def _files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / CA_CERT, folder / CERT, folder / KEY


def _load(context: ssl.SSLContext, ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    for file in (ca, cert, key):
        if not file.exists():
            raise NotFound(f"{file} is missing", hint="issue a certificate for this party into that folder")
    if key.stat().st_mode & 0o077:
        raise NotAllowed(f"the key {key} can be read by others", hint=f"chmod 600 {key}")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise NotAllowed(
            f"the certificates in {cert.parent} are broken: {error.reason or error}", hint="issue them again"
        ) from error
    return context
