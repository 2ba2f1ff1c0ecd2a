"""The small certificate authority of a cluster: makes itself, and issues one certificate per party.

Layout of a party's folder: `ca.pem`, `cert.pem`, `key.pem`; of the authority's: `ca.pem`, `ca-key.pem`. Folders are
0700, files 0600. A file appears whole or not at all.

It keeps no list of what it issued and revokes nothing: a party is put out by a new authority.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kvmove.errors import Busy, NotFound
from kvmove.pki.identity import Identity, check_name

CA_CERT, CA_KEY, CERT, KEY = "ca.pem", "ca-key.pem", "cert.pem", "key.pem"

AUTHORITY_VALIDITY = timedelta(days=3652)
LEAF_VALIDITY = timedelta(days=365)
_CLOCK_SKEW = timedelta(days=1)  # a host whose clock is behind takes a new certificate all the same


def create_authority(folder: Path) -> None:
    """Make a new authority in `folder`, valid for ten years.

    :raise Busy: there is one already; it stays as it is.
    """
    _private_folder(folder)
    if (folder / CA_KEY).exists() or (folder / CA_CERT).exists():
        raise Busy(f"{folder} holds an authority already", hint="take another folder, or remove the old one by hand")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kvmove authority")])
    builder = _builder(name, name, key.public_key(), AUTHORITY_VALIDITY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
    certificate = _sign(builder, key, key)
    _write(folder / CA_KEY, _pem(key))
    _write(folder / CA_CERT, certificate.public_bytes(serialization.Encoding.PEM))


def issue(authority: Path, identity: Identity, into: Path, *, valid_for: timedelta = LEAF_VALIDITY) -> None:
    """Issue a certificate for `identity` with a new key into the folder `into`; one that is there is replaced.

    The certificate serves both ends of a connection: agents are server and client alike.

    :raise NotFound: `authority` holds no authority.
    :raise InvalidInput: the name cannot stand in a certificate.
    """
    check_name(identity)
    ca_certificate, ca_key = _load(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_subject(identity), ca_certificate.subject, key.public_key(), valid_for)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(identity.dns_name)]), critical=False)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    certificate = _sign(builder, key, ca_key)
    _private_folder(into)
    _write(into / KEY, _pem(key))
    _write(into / CERT, certificate.public_bytes(serialization.Encoding.PEM))
    _write(into / CA_CERT, ca_certificate.public_bytes(serialization.Encoding.PEM))


def _subject(identity: Identity) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, identity.name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, valid_for: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid_for) - _CLOCK_SKEW)
        .not_valid_after(now + valid_for)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
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


def _load(authority: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((authority / CA_CERT).read_bytes())
        key = serialization.load_pem_private_key((authority / CA_KEY).read_bytes(), password=None)
    except FileNotFoundError as error:
        raise NotFound(f"{authority} holds no authority ({error.filename} is missing)", hint="create one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NotFound(f"{authority / CA_KEY} is not a key of an authority of ours", hint="create one")
    return certificate, key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write(path: Path, content: bytes) -> None:
    """Put the file there whole, readable by its owner alone from its first byte on."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
