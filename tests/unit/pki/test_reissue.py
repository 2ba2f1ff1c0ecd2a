"""The authority's side of renewal: for whom there is another certificate, and that no revocation is outrun."""

import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kvmove.errors import Busy, NotAllowed
from kvmove.model.access import IssuedCertificate
from kvmove.pki.authority import create_authority, issue, issued
from kvmove.pki.identity import Identity, Role
from kvmove.pki.reissue import check_renewal, reissue
from kvmove.pki.renewal import request_with_own_key
from kvmove.pki.revocation import revoke

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
H1, H2 = Identity(Role.AGENT, "h1"), Identity(Role.AGENT, "h2")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    create_authority(tmp_path / "ca")
    issue(tmp_path / "ca", H1, tmp_path / "h1", now=datetime.now(UTC) - timedelta(days=50))
    return tmp_path / "ca"


def request_of(authority: Path) -> str:
    return request_with_own_key(authority.parent / "h1")


def serial_of(authority: Path) -> int:
    return x509.load_pem_x509_certificate((authority.parent / "h1" / "cert.pem").read_bytes()).serial_number


def test_a_renewed_certificate_is_recorded_and_revoked_with_the_others(authority: Path) -> None:
    made = reissue(authority, request_of(authority), H1, serial_of(authority))
    assert f"{made.serial_number:x}" in [it.serial for it in issued(authority)]
    assert revoke(authority, H1) == 2


def test_a_revoked_certificate_is_not_renewed(authority: Path) -> None:
    revoke(authority, H1)
    with pytest.raises(NotAllowed, match="is revoked"):
        reissue(authority, request_of(authority), H1, serial_of(authority))
    assert len(issued(authority)) == 1


def test_a_certificate_that_the_authority_does_not_know_or_of_another_party_is_not_renewed(authority: Path) -> None:
    issue(authority, H2, authority.parent / "h2")
    for party, serial in ((H1, 1), (H2, serial_of(authority))):
        with pytest.raises(NotAllowed, match="that counts"):
            reissue(authority, request_of(authority), party, serial)


def test_the_list_is_looked_at_and_the_certificate_recorded_in_one_go(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation that begins while the list is looked at waits until the new certificate is recorded."""
    held = list[bool]()

    def look(*_: object) -> None:
        held.append(is_held(authority))

    monkeypatch.setattr("kvmove.pki.reissue.check_renewal", look)
    reissue(authority, request_of(authority), H1, serial_of(authority))
    assert held == [True]
    assert not is_held(authority)


def is_held(authority: Path) -> bool:
    """Whether somebody is alone with the authority's lists now."""
    descriptor = os.open(authority, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def entry(serial: int, issued_at: datetime) -> IssuedCertificate:
    ends = issued_at + timedelta(days=90)
    return IssuedCertificate(
        serial=f"{serial:x}", role="agent", name="h1", issued=issued_at.isoformat(), expires=ends.isoformat()
    )


def test_nobody_renews_in_the_first_half_of_a_certificates_life() -> None:
    known = [entry(1, NOON)]
    with pytest.raises(Busy, match="too early"):
        check_renewal(known, H1, 1, NOON + timedelta(days=44))
    check_renewal(known, H1, 1, NOON + timedelta(days=46))


def test_a_party_has_one_more_in_an_hour_at_most_and_can_try_again() -> None:
    asked = NOON + timedelta(days=60)
    known = [entry(1, NOON), entry(2, asked)]
    with pytest.raises(Busy, match="too early"):
        check_renewal(known, H1, 1, asked + timedelta(minutes=59))
    check_renewal(known, H1, 1, asked + timedelta(minutes=61))


def test_what_has_run_out_is_dropped_from_the_list_and_a_damaged_line_is_not(authority: Path) -> None:
    issue(authority, H2, authority.parent / "h2", now=datetime.now(UTC) - timedelta(days=91))
    issue(authority, H2, authority.parent / "h2")
    assert [it.name for it in issued(authority)] == ["h1", "h2"]
    with (authority / "issued.jsonl").open("a") as file:
        file.write("damaged\n")
    issue(authority, H2, authority.parent / "h2")
    with pytest.raises(NotAllowed, match="is damaged"):
        issued(authority)
