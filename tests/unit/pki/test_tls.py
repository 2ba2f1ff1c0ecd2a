"""Certificates over real sockets: who gets in, and everyone who does not."""

import queue
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kvmove.errors import Busy, InvalidInput, NotAllowed, NotFound
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import client_context, server_context
from kvmove.pki.identity import Identity, Role, peer_identity

H1, H2, MANAGER = Identity(Role.AGENT, "h1"), Identity(Role.AGENT, "h2"), Identity(Role.MANAGER, "manager")


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    create_authority(tmp_path / "ca")
    for identity in (H1, H2, MANAGER):
        issue(tmp_path / "ca", identity, tmp_path / identity.name)
    return tmp_path


def talk(server: ssl.SSLContext, client: ssl.SSLContext, asked_for: str) -> Identity:
    """Connect once; give the identity that the server saw.

    Raises the client's verdict on the server's certificate, else what the server raised, else what the client raised.
    """
    seen: queue.Queue[Identity | Exception] = queue.Queue()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                with server.wrap_socket(connection, server_side=True) as tls:
                    seen.put(peer_identity(tls.getpeercert()))
                    tls.sendall(b"welcome")
            except (OSError, NotAllowed) as error:
                seen.put(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        refusal: OSError | None = None
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=asked_for) as tls,
            ):
                if tls.recv(7) != b"welcome":
                    raise ConnectionError("the server hung up")
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            refusal = error
        finally:
            thread.join(timeout=10)
    result = seen.get(timeout=10)
    if isinstance(result, Exception):
        raise result
    assert refusal is None
    return result


def test_two_parties_of_one_cluster_know_each_other(cluster: Path) -> None:
    server = server_context(cluster / "h2")
    assert talk(server, client_context(cluster / "h1"), H2.dns_name) == H1
    assert talk(server, client_context(cluster / "manager"), H2.dns_name) == MANAGER


def test_a_foreign_authority_is_refused_on_either_side(cluster: Path) -> None:
    create_authority(cluster / "foreign-ca")
    issue(cluster / "foreign-ca", H1, cluster / "foreign-h1")
    foreign_client = client_context(cluster / "foreign-h1")
    foreign_client.load_verify_locations(cluster / "ca" / "ca.pem")  # the attacker does trust us
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server_context(cluster / "h2"), foreign_client, H2.dns_name)
    foreign_server = server_context(cluster / "foreign-h1")
    foreign_server.load_verify_locations(cluster / "ca" / "ca.pem")
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(foreign_server, client_context(cluster / "h2"), H1.dns_name)


def test_an_expired_certificate_is_refused_on_either_side(cluster: Path) -> None:
    issue(cluster / "ca", H1, cluster / "old", valid_for=-timedelta(hours=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        talk(server_context(cluster / "h2"), client_context(cluster / "old"), H2.dns_name)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        talk(server_context(cluster / "old"), client_context(cluster / "h2"), H1.dns_name)


@pytest.mark.parametrize("asked_for", [H1.dns_name, MANAGER.dns_name, "h2.operator.kvmove", "127.0.0.1", "h2"])
def test_a_server_with_another_name_or_role_is_refused(cluster: Path, asked_for: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server_context(cluster / "h2"), client_context(cluster / "h1"), asked_for)


def _anonymous(cluster: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=cluster / "ca" / "ca.pem")
    assert context.verify_mode is ssl.CERT_REQUIRED
    return context


def _tls_1_2(cluster: Path) -> ssl.SSLContext:
    context = client_context(cluster / "h1")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(("make", "reason"), [(_anonymous, "PEER_DID_NOT_RETURN"), (_tls_1_2, "UNSUPPORTED_PROTOCOL")])
def test_no_certificate_or_tls_1_2_is_refused(
    cluster: Path, make: Callable[[Path], ssl.SSLContext], reason: str
) -> None:
    """By TLS itself, before a byte of ours is read."""
    with pytest.raises(ssl.SSLError, match=reason):
        talk(server_context(cluster / "h2"), make(cluster), H2.dns_name)


def test_a_client_refuses_a_server_that_speaks_only_tls_1_2(cluster: Path) -> None:
    server = server_context(cluster / "h2")
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        talk(server, client_context(cluster / "h1"), H2.dns_name)


def test_a_leaf_cannot_sign_for_others(cluster: Path) -> None:
    """h1 uses its own key as if it were an authority, to become the manager."""
    rogue = cluster / "rogue"
    rogue.mkdir()
    (rogue / "ca.pem").write_bytes((cluster / "h1" / "cert.pem").read_bytes())
    (rogue / "ca-key.pem").write_bytes((cluster / "h1" / "key.pem").read_bytes())
    (rogue / "ca-key.pem").chmod(0o600)
    issue(rogue, MANAGER, cluster / "fake")
    chain = (cluster / "fake" / "cert.pem").read_bytes() + (cluster / "h1" / "cert.pem").read_bytes()
    (cluster / "fake" / "cert.pem").write_bytes(chain)
    (cluster / "fake" / "ca.pem").write_bytes((cluster / "ca" / "ca.pem").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server_context(cluster / "h2"), client_context(cluster / "fake"), H2.dns_name)


def test_files_and_folders_are_private(cluster: Path) -> None:
    for folder in (cluster / "ca", cluster / "h1"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for file in folder.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert sorted(file.name for file in (cluster / "h1").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_an_authority_is_never_overwritten(cluster: Path) -> None:
    before = (cluster / "ca" / "ca-key.pem").read_bytes()
    with pytest.raises(Busy):
        create_authority(cluster / "ca")
    assert (cluster / "ca" / "ca-key.pem").read_bytes() == before


def test_a_certificate_is_renewed_in_place(cluster: Path) -> None:
    before = (cluster / "h1" / "cert.pem").read_bytes()
    issue(cluster / "ca", H1, cluster / "h1")
    assert (cluster / "h1" / "cert.pem").read_bytes() != before
    assert talk(server_context(cluster / "h2"), client_context(cluster / "h1"), H2.dns_name) == H1


def test_what_is_missing_or_broken_is_said(cluster: Path) -> None:
    with pytest.raises(NotFound, match="authority"):
        issue(cluster / "nowhere", H1, cluster / "x")
    with pytest.raises(InvalidInput):
        issue(cluster / "ca", Identity(Role.AGENT, "H1"), cluster / "x")
    with pytest.raises(NotFound, match=r"ca\.pem is missing"):
        server_context(cluster / "nowhere")
    (cluster / "h1" / "key.pem").write_bytes((cluster / "h2" / "key.pem").read_bytes())
    with pytest.raises(NotAllowed, match="broken"):
        client_context(cluster / "h1")
    (cluster / "h1" / "key.pem").chmod(0o640)
    with pytest.raises(NotAllowed, match="read by others"):
        client_context(cluster / "h1")
