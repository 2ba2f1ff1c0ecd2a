"""`kvmove support-bundle`: all that helps is in it, and no secret that was planted anywhere near it."""

import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.cli.redact import redact
from kvmove.manager.app import Health
from kvmove.model.event import PastEvents
from kvmove.model.vm import BootDefinition
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

TICKET = "0123456789abcdef" * 4
API_TOKEN = "kvmove_" + "Ab3-_xYz9012" * 4
JOIN_TOKEN = "kvmove-join-" + "Zz9" * 20
PASSWORD = "correct horse battery"
BEARER = "eyJhbGciOiJIUzI1NiJ9.e30.c2VjcmV0"


@pytest.fixture
def planted(tmp_path: Path, manager: FakeManager) -> list[str]:
    """Secrets where they could be by somebody's mistake; the texts that must not come out."""
    create_authority(tmp_path / "ca")
    issue(tmp_path / "ca", Identity(Role.AGENT, "h1"), tmp_path / "pki")
    key = (tmp_path / "pki" / "key.pem").read_text()
    (tmp_path / "agent.toml").write_text(
        f'name = "h1"\npki = "{tmp_path / "pki"}"\npassword = "{PASSWORD}"\napi_token = \'{API_TOKEN}\'\n'
        f'manager = "https://admin:hunter2@10.0.0.9:7440"\nnote = """{key}"""\n'
    )
    boot = BootDefinition(kernel="/boot/vmlinuz", command_line=f"quiet token={API_TOKEN}")
    vm = samples.vm(definition=samples.definition().model_copy(update={"boot": boot}))
    problem = {"detail": f"refused: Authorization: Bearer {BEARER}; ticket {TICKET}; {key}"}
    manager.answers["GET /healthz"] = Health()
    manager.answers["GET /vms"] = [vm]
    manager.answers["GET /tasks"] = [samples.task().model_copy(update={"problem": problem, "vm_state": JOIN_TOKEN})]
    manager.answers["GET /events:past"] = PastEvents(events=(), complete_since="2026-11-23T00:00:00+00:00")
    body = "".join(key.splitlines()[1:-1])
    return [TICKET, API_TOKEN, JOIN_TOKEN, PASSWORD, BEARER, "hunter2", body[:40], body[-40:], key.splitlines()[2]]


def test_no_planted_secret_is_in_any_file_of_the_bundle(
    kvmove: Kvmove, manager: FakeManager, planted: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "b.tar.gz"
    done = kvmove("support-bundle", str(file), "--agent-config", str(tmp_path / "agent.toml"))
    assert done.code == 0
    with tarfile.open(file) as bundle:
        bundle.extractall(tmp_path / "out", filter="data")
    out = tmp_path / "out"
    texts = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    for secret in planted:
        assert [name for name, text in texts.items() if secret in text] == []
    assert "/pki" in texts["b/config/agent.toml"]
    assert "web1" in texts["b/manager/vms.json"]
    assert samples.MOVE_ID in texts["b/manager/tasks.json"]
    assert "manager/hosts.json: missing" in texts["b/CONTENTS.txt"]
    assert file.stat().st_mode & 0o777 == 0o600
    for name in texts:
        assert name == "b/CONTENTS.txt" or name.removeprefix("b/") in texts["b/CONTENTS.txt"]
        assert name == "b/CONTENTS.txt" or name.removeprefix("b/") in done.out


def test_a_file_that_is_there_stays(kvmove: Kvmove, planted: list[str], tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_text("mine")
    assert kvmove("support-bundle", str(tmp_path / "b.tar.gz")).code == 5
    assert (tmp_path / "b.tar.gz").read_text() == "mine"


def test_without_a_manager_there_is_still_a_bundle(kvmove: Kvmove, tmp_path: Path) -> None:
    done = kvmove("support-bundle", str(tmp_path / "b.tar.gz"), "--server", "unix:/nowhere/s")
    assert done.code == 0
    assert "Could not be had" in done.out


@pytest.mark.parametrize(
    "harmless",
    [
        '{"name": "h1", "memory_free": 21313769472}',
        "kvmove_certificate_expiry_timestamp_seconds 1.8e+09",
        'kvmove_migrations_total{kind="unified",reason="",result="succeeded"} 1.0',
        "c468f276-3988-5b8a-9954-826a84003754",
        'pki = "/var/lib/kvmove/pki/agent"\nkey = "/var/lib/kvmove/pki/etcd/key.pem"',
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    assert redact(harmless) == harmless


@pytest.mark.parametrize(
    "command",
    [
        'off = ["ipmitool", "-H", "{host}-bmc", "-P", "hunter2", "power", "off"]',
        "on = ['ipmitool', '-P', 'hunter2']",
        'off = [\n  "ipmitool",  # ]\n  "-P", "a]hunter2",\n]',
        '[balance]\npower = { off = ["x", "-P", "hunter2"], on = ["x", "hunter2"] }',
        'balance.power."off" = ["x", """a"b]hunter2""", "hunter2"]',
        '# off = ["ipmitool", "-P", "hunter2"]',
        '{"off": ["ipmitool", "\\"]hunter2"]}',
        'off = ["ipmitool", "-P", "hunter2',
        'off = ["ipmitool", "-P", "x, hunter2]\non = ["hunter2"',
    ],
)
def test_the_words_of_a_power_command_go(command: str) -> None:
    left = redact(f'mode = "manual"\n{command}\n')
    assert "hunter2" not in left
    assert left.startswith('mode = "manual"\n') and "[removed]" in left


def test_the_program_of_a_power_command_stays() -> None:
    text = 'off = ["ipmitool", "-P", "p"]\nlow = 0.45'
    assert redact(text) == 'off = ["ipmitool", "[removed]"]\nlow = 0.45'


SECRET = st.text(st.sampled_from("abcXYZ019+/=_-."), min_size=12, max_size=60)


@given(
    SECRET,
    st.sampled_from(
        ['token = "{}"', '{{"api_token": "{}"}}', "PASSWORD={}", "password: {}", "Authorization: Bearer {}",
         "https://me:{}@h/", "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----",
         '"-----BEGIN PRIVATE KEY-----\\n{}"'],
    ),
    st.text(max_size=20),
)  # fmt: skip
def test_a_secret_goes_whatever_stands_around_it(secret: str, form: str, around: str) -> None:
    if "https" in form:
        secret = secret.replace("/", "x")
    left = redact(f"{around}\n{form.format(secret)}\n{around}")
    assert secret not in left or secret in around
