"""TLS contexts of a party: TLS 1.3 alone, and a certificate of the one authority, not revoked.

Invariant: a context made here accepts no certificate but a valid one of the cluster's authority, and a client checks
the *name* of the server it asked for as well. A server asks every client for one; the manager alone lets in clients
that show none (`strangers`), because users come with a token, and a host that joins has nothing yet: its gate judges
them.
The one context that checks nothing is `unverified_context`.

`LiveContext` and `live_server_context` follow the files: what is renewed or revoked counts for every connection that is
made after it, without a restart. Connections that are open stay as they are.

In TLS 1.3 a client has finished its handshake before the server has judged the client's certificate: a refused client
learns of it when it first reads.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from kvmove.errors import KvmoveError, NotAllowed, NotFound
from kvmove.pki.authority import CA_CERT, CERT, CRL, KEY

_LOG = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int] | None, ...]


def server_context(folder: Path, *, strangers: bool = False) -> ssl.SSLContext:
    """A context for listening as the party whose folder this is. A client must show a certificate.

    No session tickets: each connection proves its identity anew.

    :param strangers: a client may show none. One that it shows must be valid all the same.
    :raise NotFound: a file is missing.
    :raise NotAllowed: the key can be read by others, or does not fit the certificate.
    """
    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *_files(folder))
    context.num_tickets = 0
    if strangers:
        context.verify_mode = ssl.CERT_OPTIONAL
    return _with_revocations(context, folder)


def client_context(folder: Path) -> ssl.SSLContext:
    """A context for connecting as the party whose folder this is. Pass the peer's `dns_name` as `server_hostname`.

    :raise NotFound: a file is missing.
    :raise NotAllowed: the key can be read by others, or does not fit the certificate.
    """
    return _with_revocations(client_context_of(*_files(folder)), folder)


def client_context_of(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """A context for connecting to what has its certificate of the authority `ca`, wherever the files lie.

    :raise NotFound: a file is missing.
    :raise NotAllowed: the key can be read by others, or does not fit the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return _load(context, ca, cert, key)


def trusting_context(authority: str) -> ssl.SSLContext:
    """A context for connecting without a certificate of one's own, with a token, to a party of this authority (PEM).

    :raise NotAllowed: it is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise NotAllowed(
            "what was given as the authority's certificate is none", hint="copy the ca.pem again"
        ) from error
    return context


def unverified_context() -> ssl.SSLContext:
    """A context that takes any server. For one question alone: an authority's certificate, which is public and whose
    fingerprint is compared with one that is known. Nothing secret may be sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class LiveContext:
    """The context that `make` gives for `folder`, made anew when the files have changed. For any thread.

    Files that cannot be used are told in the log once, and the context before them counts on.

    :raise NotFound, NotAllowed: by the constructor alone: the files cannot be used at the start.
    """

    def __init__(self, folder: Path, make: Callable[[Path], ssl.SSLContext]) -> None:
        self._folder = folder
        self._make = make
        self._lock = threading.Lock()
        self._stamp = _stamp(folder)
        self._context = make(folder)

    def __call__(self) -> ssl.SSLContext:
        """The context for a connection that is made now."""
        stamp = _stamp(self._folder)
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._make(self._folder)
                except KvmoveError as error:
                    _LOG.warning("%s; the certificate before it is used on", error.detail)
            return self._context


def live_server_context(folder: Path, *, strangers: bool = False) -> ssl.SSLContext:
    """As `server_context`, for a server that keeps one context: each handshake looks for changed files first.

    Not for several threads: this context itself is changed. Whether the first list of revocations counts is decided
    before the handshake that finds it, so it counts from the next one on.
    """
    live = LiveContext(folder, lambda place: server_context(place, strangers=strangers))
    door = server_context(folder, strangers=strangers)

    def take_newest(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _door: ssl.SSLContext) -> None:
        newest = live()
        connection.context = newest
        door.verify_flags = newest.verify_flags

    door.sni_callback = take_newest
    return door


def _files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / CA_CERT, folder / CERT, folder / KEY


def _stamp(folder: Path) -> _Stamp:
    return tuple(_file_stamp(folder / name) for name in (CA_CERT, CERT, KEY, CRL))


def _file_stamp(file: Path) -> tuple[int, int] | None:
    try:
        seen = file.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns


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


def _with_revocations(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    """Without a list nothing was revoked yet, as far as this party knows."""
    if (folder / CRL).exists():
        try:
            context.load_verify_locations(folder / CRL)
        except ssl.SSLError as error:
            raise NotAllowed(f"{folder / CRL} is damaged", hint="copy the manager's crl.pem there") from error
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context
