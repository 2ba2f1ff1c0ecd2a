"""Real etcd processes (Debian's etcd-server) on loopback addresses, with their data in a folder of the test's.

Invariant: no two test runs on a machine meet. A run takes an address of 127/8 that its process id gives, and each
cluster of it ports of its own. Processes are ended by their pid, and none outlives its cluster.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kvmove.pki.contexts import client_context_of

_HANG_SECONDS = 30.0
_PORTS = itertools.count(12_000, 20)  # below the range from which the kernel takes ports by itself
_ADDRESS = str(ipaddress.ip_address(0x7F40_0000 + os.getpid() % 0x40_0000))  # 127.64.0.0 to 127.127.255.255


class EtcdMembers:
    """A cluster of `count` members, not yet started. `tls`: every client and peer must show a certificate made here."""

    def __init__(self, folder: Path, count: int, *, tls: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._scheme = "https" if tls else "http"
        base = next(_PORTS)
        self._ports = range(base, base + 2 * count, 2)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        if tls:
            _make_certificates(folder, _ADDRESS)
            self.tls: ssl.SSLContext | None = client_context_of(self.ca, self.cert, self.key)
        else:
            self.tls = None

    @property
    def ca(self) -> Path:
        return self._folder / "ca.pem"

    @property
    def cert(self) -> Path:
        return self._folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self._folder / "key.pem"

    @property
    def endpoints(self) -> list[str]:
        return [self._url(port) for port in self._ports]

    def start(self, number: int) -> None:
        """Start a member, on what data it has; it serves some time later."""
        with (self._folder / f"log{number}").open("ab") as log:
            self._processes[number] = subprocess.Popen(self._command(number), stdout=log, stderr=log)

    def wait_until_serving(self) -> None:
        """Return once every member knows its leader."""
        end = time.monotonic() + _HANG_SECONDS
        while not all((self._status(number) or {}).get("leader", "0") != "0" for number in self._processes):
            if time.monotonic() > end:
                raise TimeoutError(f"etcd does not serve; see the logs in {self._folder}")
            time.sleep(0.05)

    def leader(self) -> int:
        """The number of the member that leads now, as the others see it."""
        end = time.monotonic() + _HANG_SECONDS
        while time.monotonic() < end:
            for number in self._processes:
                status = self._status(number)
                if status and status.get("leader") == status["header"]["member_id"]:
                    return number
            time.sleep(0.05)
        raise TimeoutError("etcd has no leader")

    def kill(self, number: int) -> None:
        """End a member as a power cut would, but for the page cache."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    @contextmanager
    def hung(self, number: int) -> Iterator[None]:
        """A member takes connections and answers nothing, as long as this lasts."""
        self._processes[number].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[number].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for number in list(self._processes):
            self.kill(number)

    def ask(self, number: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What one member answers, without any code of the product's."""
        connection: HTTPConnection
        if self.tls is None:
            connection = HTTPConnection(_ADDRESS, self._ports[number], timeout=2)
        else:
            connection = HTTPSConnection(_ADDRESS, self._ports[number], timeout=2, context=self.tls)
        try:
            connection.request("POST", path, json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer

    def _status(self, number: int) -> dict[str, Any] | None:
        try:
            return self.ask(number, "/v3/maintenance/status", {})
        except (OSError, HTTPException, ValueError):
            return None

    def _url(self, port: int) -> str:
        return f"{self._scheme}://{_ADDRESS}:{port}"

    def _command(self, number: int) -> list[str]:
        client, peer = self._url(self._ports[number]), self._url(self._ports[number] + 1)
        members = ",".join(f"m{other}={self._url(port + 1)}" for other, port in enumerate(self._ports))
        options = {
            "name": f"m{number}",
            "data-dir": str(self._folder / f"data{number}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": members,
            "initial-cluster-token": str(self._ports[0]),
        }
        if self.tls is not None:
            files = {"trusted-ca-file": str(self.ca), "cert-file": str(self.cert), "key-file": str(self.key)}
            options |= files | {f"peer-{name}": file for name, file in files.items()}
            options |= {"client-cert-auth": "true", "peer-client-cert-auth": "true"}
        return ["etcd", *(f"--{name}={value}" for name, value in options.items())]


@contextmanager
def serving(folder: Path, count: int, *, tls: bool) -> Iterator[EtcdMembers]:
    """A cluster whose members all serve; it is gone afterwards."""
    members = EtcdMembers(folder, count, tls=tls)
    try:
        for number in range(count):
            members.start(number)
        members.wait_until_serving()
        yield members
    finally:
        members.stop()


def _make_certificates(folder: Path, address: str) -> None:
    """An authority, and one certificate of it for `address` that serves servers, peers and clients alike."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name("etcd authority")
    authority = _certificate(ca_name, ca_name, ca_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    leaf = _certificate(_name("etcd"), ca_name, key)
    leaf = leaf.add_extension(
        # etcd compares the address that a peer connects from as well; on loopback that is 127.0.0.1.
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(it)) for it in (address, "127.0.0.1")]),
        critical=False,
    ).add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    for builder, file in ((authority, "ca.pem"), (leaf, "cert.pem")):
        (folder / file).write_bytes(builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").touch(mode=0o600)
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
