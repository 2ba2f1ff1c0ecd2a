"""The small certificate authority of a cluster: makes itself, and issues one certificate per party.

Layout of a party's folder: `ca.pem`, `cert.pem`, `key.pem`, and `crl.pem` once something was revoked; of the
authority's: `ca.pem`, `ca-key.pem`, `issued.jsonl`, `crl.pem`. Folders are 0700, files 0600.

Invariant: no certificate leaves before it is in `issued.jsonl`, so whatever was issued to a party can be revoked by the
party's name (see `revocation`). A key that others can read is not used.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import ValidationError

from kvmove.errors import Busy, InvalidInput, NotAllowed, NotFound
from kvmove.model.access import IssuedCertificate
from kvmove.pki.identity import Identity, check_name
from kvmove.pki.private_files import private_folder, write_private

CA_CERT, CA_KEY, CERT, KEY, CRL, ISSUED = "ca.pem", "ca-key.pem", "cert.pem", "key.pem", "crl.pem", "issued.jsonl"

AUTHORITY_VALIDITY = timedelta(days=3652)
LEAF_VALIDITY = timedelta(days=90)
"""Short, because parties renew theirs by themselves; see `renewal`."""

CLOCK_SKEW = timedelta(days=1)
"""A certificate is valid from so long before it was issued: a host whose clock is behind takes it all the same."""


def create_authority(folder: Path) -> None:
    """Make a new authority in `folder`, valid for ten years.

    :raise Busy: there is one already; it stays as it is.
    """
    private_folder(folder)
    if (folder / CA_KEY).exists() or (folder / CA_CERT).exists():
        raise Busy(f"{folder} holds an authority already", hint="take another folder, or remove the old one by hand")
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kvmove authority")])
    builder = _builder(name, name, key.public_key(), AUTHORITY_VALIDITY, datetime.now(UTC))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
    certificate = _sign(builder, key, key)
    write_private(folder / CA_KEY, key_pem(key))
    write_private(folder / CA_CERT, certificate.public_bytes(serialization.Encoding.PEM))


def issue(
    authority: Path,
    identity: Identity,
    into: Path,
    *,
    valid_for: timedelta = LEAF_VALIDITY,
    now: datetime | None = None,
) -> None:
    """Issue a certificate for `identity` with a new key into the folder `into`; one that is there is replaced.

    It is good from `now` on, by default this instant.

    The certificate serves both ends of a connection: agents are server and client alike.

    :raise NotFound: `authority` holds no authority.
    :raise NotAllowed: the authority's key can be read by others.
    :raise InvalidInput: the name cannot stand in a certificate.
    """
    key = new_key()
    with locked(authority):
        certificate = certify(authority, identity, key.public_key(), valid_for, now)
    private_folder(into)
    write_private(into / KEY, key_pem(key))
    write_private(into / CERT, certificate.public_bytes(serialization.Encoding.PEM))
    write_private(into / CA_CERT, (authority / CA_CERT).read_bytes())


def sign_request(
    authority: Path, request: str, identity: Identity, *, valid_for: timedelta = LEAF_VALIDITY
) -> x509.Certificate:
    """A certificate for `identity` and the key of `request` (PKCS #10, PEM). What else the request says is ignored:
    who a party is, is for the caller to know.

    :raise InvalidInput: it is no request of a P-256 key, or not signed with it.
    :raise NotFound: `authority` holds no authority.
    :raise NotAllowed: the authority's key can be read by others.
    """
    key = requested_key(request)
    with locked(authority):
        return certify(authority, identity, key, valid_for)


def requested_key(request: str) -> ec.EllipticCurvePublicKey:
    """The key that a certificate request is for, and that it was signed with.

    :raise InvalidInput: it is no such request.
    """
    hint = "let `kvmove agent join` or kvmove itself make it"
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        key, is_signed = parsed.public_key(), parsed.is_signature_valid
    except Exception as error:  # cryptography raises many kinds for what a stranger may send
        raise InvalidInput("the certificate request cannot be read", hint=hint) from error
    if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP256R1.name:
        raise InvalidInput("the certificate request is not one of a P-256 key, signed with it", hint=hint)
    return key


def issued(authority: Path) -> list[IssuedCertificate]:
    """What the authority issued, oldest first, all of it that has not run out; whether one is revoked is
    `revocation`'s to say.

    :raise NotAllowed: the list is damaged.
    """
    file = authority / ISSUED
    try:
        return [IssuedCertificate.model_validate_json(line) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except ValidationError as error:
        raise NotAllowed(f"{file} is damaged", hint="mend the line by hand, or take it out") from error


def certify(
    authority: Path,
    identity: Identity,
    key: ec.EllipticCurvePublicKey,
    valid_for: timedelta,
    now: datetime | None = None,
) -> x509.Certificate:
    """Sign and record a certificate. For who is alone with the authority (`locked`), so that what it saw in the lists
    before holds still.

    :raise InvalidInput, NotFound, NotAllowed: as `issue`; nothing is recorded.
    """
    check_name(identity)
    ca_certificate, ca_key = load_authority(authority)
    now = now or datetime.now(UTC)
    builder = _builder(_subject(identity), ca_certificate.subject, key, valid_for, now)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(identity.dns_name)]), critical=False)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    certificate = _sign(builder, key, ca_key)
    _record(authority, identity, certificate, now)
    return certificate


@contextmanager
def locked(authority: Path) -> Iterator[None]:
    """Alone with the authority's lists: the manager and a command may both be at work.

    :raise NotFound: there is no such folder.
    """
    if not authority.is_dir():
        raise NotFound(f"{authority} holds no authority", hint="create one")
    descriptor = os.open(authority, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def load_authority(authority: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority's certificate and key.

    :raise NotFound: there is none.
    :raise NotAllowed: the key can be read by others.
    """
    try:
        certificate = x509.load_pem_x509_certificate((authority / CA_CERT).read_bytes())
        key = serialization.load_pem_private_key((authority / CA_KEY).read_bytes(), password=None)
        mode = (authority / CA_KEY).stat().st_mode
    except FileNotFoundError as error:
        raise NotFound(f"{authority} holds no authority ({error.filename} is missing)", hint="create one") from error
    if mode & 0o077:
        file = authority / CA_KEY
        raise NotAllowed(f"the authority's key {file} can be read by others", hint=f"chmod 600 {file}")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NotFound(f"{authority / CA_KEY} is not a key of an authority of ours", hint="create one")
    return certificate, key


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _record(authority: Path, identity: Identity, certificate: x509.Certificate, now: datetime) -> None:
    """What has run out is dropped on the way: nobody needs to revoke it, and the list stays as short as what counts."""
    entry = IssuedCertificate(
        serial=f"{certificate.serial_number:x}",
        role=identity.role,
        name=identity.name,
        issued=now.isoformat(timespec="seconds"),
        expires=certificate.not_valid_after_utc.isoformat(timespec="seconds"),
    )
    file = authority / ISSUED
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in lines if not _has_run_out(line)]
    write_private(file, "".join(f"{line}\n" for line in [*kept, entry.model_dump_json(exclude={"revoked"})]).encode())


def _has_run_out(line: str) -> bool:
    """Of a line that cannot be read nobody knows: it stays, for `issued` to tell."""
    try:
        return datetime.fromisoformat(IssuedCertificate.model_validate_json(line).expires) <= datetime.now(UTC)
    except ValueError:
        return False


def _subject(identity: Identity) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, identity.name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, valid_for: timedelta, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid_for) - CLOCK_SKEW)
        .not_valid_after(now + valid_for)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    if key is not signer:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(issuer, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
