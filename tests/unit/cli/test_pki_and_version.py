"""`kvmove pki` and `kvmove version`: commands that ask nobody."""

import json
from pathlib import Path

import kvmove as package
from tests.unit.cli.conftest import Kvmove


def test_an_authority_is_made_and_issues_certificates(tmp_path: Path, kvmove: Kvmove) -> None:
    ca, into = str(tmp_path / "ca"), str(tmp_path / "h1")
    assert "ca-key.pem" in kvmove("pki", "init", ca).out
    issued = kvmove("pki", "issue", ca, "agent", "h1", "--into", into)
    assert (issued.code, issued.out) == (0, f"The certificate of agent h1 is in {into}.\n")
    assert sorted(path.name for path in Path(into).iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    again = kvmove("pki", "issue", ca, "operator", "ann", "--into", into, "-o", "json")
    assert json.loads(again.out) == {"role": "operator", "name": "ann", "folder": into}


def test_an_authority_is_never_overwritten(tmp_path: Path, kvmove: Kvmove) -> None:
    kvmove("pki", "init", str(tmp_path))
    before = (tmp_path / "ca-key.pem").read_bytes()
    assert kvmove("pki", "init", str(tmp_path)).code == 5
    assert (tmp_path / "ca-key.pem").read_bytes() == before


def test_without_an_authority_nothing_is_issued(tmp_path: Path, kvmove: Kvmove) -> None:
    result = kvmove("pki", "issue", str(tmp_path), "agent", "h1", "--into", str(tmp_path / "h1"))
    assert result.code == 4
    assert not (tmp_path / "h1").exists()


def test_a_role_that_there_is_not_is_a_matter_of_usage(tmp_path: Path, kvmove: Kvmove) -> None:
    result = kvmove("pki", "issue", str(tmp_path), "king", "h1", "--into", str(tmp_path))
    assert result.code == 2


def test_the_manager_needs_no_name_and_all_others_do(tmp_path: Path, kvmove: Kvmove) -> None:
    kvmove("pki", "init", str(tmp_path))
    assert (
        "certificate of manager is"
        in kvmove("pki", "issue", str(tmp_path), "manager", "--into", str(tmp_path / "m")).out
    )
    assert kvmove("pki", "issue", str(tmp_path), "agent", "--into", str(tmp_path / "a")).code == 2


def test_the_version_is_told_in_every_form(kvmove: Kvmove) -> None:
    assert kvmove("version").out.startswith(f"kvmove {package.__version__} (Python 3.")
    assert json.loads(kvmove("version", "-o", "json").out)["kvmove"] == package.__version__
    assert kvmove("version", "-o", "name").out == f"{package.__version__}\n"
    assert kvmove("--version").out == f"kvmove {package.__version__}\n"
