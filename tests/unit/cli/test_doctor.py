"""`kvmove doctor`: when a check warns, when it fails, and what the command makes of it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvmove.cli import check_rules as rules
from kvmove.cli.checks_here import certificates, host_checks
from kvmove.errors import Unreachable
from kvmove.manager.app import Health
from kvmove.manager.routes_observed import Ready
from kvmove.model.check import Check, CheckState
from kvmove.model.host import HostInfo, HostStatus
from kvmove.model.task import TaskState
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from kvmove.units import GIB
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

OK, WARN, FAIL = CheckState.OK, CheckState.WARN, CheckState.FAIL
NOW = datetime(2026, 11, 23, tzinfo=UTC)
STORE = samples.host_info().datastores[0]


def status(**more: Any) -> HostStatus:
    info = HostInfo.model_validate({**dict(samples.host_info()), **more})
    return HostStatus(name="h1", control="10.0.0.1:7441", reachable=True, info=info)


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (rules.qemu("h", "7.2.22"), OK),
        (rules.qemu("h", "7.2.13"), WARN),
        (rules.qemu("h", "10.0.2"), OK),
        (rules.qemu("h", "6.2.0"), FAIL),
        (rules.accelerator("h", True, True, "kvm"), OK),
        (rules.accelerator("h", True, True, "tcg"), WARN),
        (rules.accelerator("h", False, True, "tcg"), WARN),
        (rules.accelerator("h", True, False, "tcg"), WARN),
        (rules.certificate("h", NOW + timedelta(days=31), NOW), OK),
        (rules.certificate("h", NOW + timedelta(days=29), NOW), WARN),
        (rules.certificate("h", NOW, NOW), FAIL),
        (rules.clock(-1.9), OK),
        (rules.clock(2.5), WARN),
        (rules.clock(-61.0), FAIL),
        (rules.same_version("h", "1", "1"), OK),
        (rules.same_version("h", "1", "2"), WARN),
        (rules.datastore("h", STORE.model_copy(update={"size": 100 * GIB, "free": 10 * GIB})), OK),
        (rules.datastore("h", STORE.model_copy(update={"size": 100 * GIB, "free": 9 * GIB})), WARN),
        (rules.datastore("h", STORE.model_copy(update={"size": 100 * GIB, "free": 1 * GIB})), FAIL),
        (rules.datastore("h", STORE.model_copy(update={"size": 0, "free": 0, "devices": ()})), OK),
        (rules.nic("mig0", True, "10.0.0.1", 1500), OK),
        (rules.nic("mig0", True, "10.0.0.1", 1280), WARN),
        (rules.nic("mig0", True, None, 1500), FAIL),
        (rules.nic("mig0", False, None, 0), FAIL),
        (rules.tasks([samples.task()]), OK),
        (rules.tasks([samples.task(TaskState.ATTENTION)]), WARN),
    ],
)  # fmt: skip
def test_when_a_check_warns_and_when_it_fails(check: Check, state: CheckState) -> None:
    assert check.state is state
    assert bool(check.remedy) is (state is not OK)


def test_a_host_that_is_well_and_hosts_that_are_not() -> None:
    assert {check.state for check in rules.host(status(), "0.1.0")} == {OK}
    (silent,) = rules.host(HostStatus(name="h1", control="c:1", reachable=False, reason="no route"), "0.1.0")
    assert (silent.state, silent.said) == (FAIL, "no route")
    assert FAIL in {check.state for check in rules.host(status(nics=()), "0.1.0")}
    assert WARN in {check.state for check in rules.host(status(accelerator="tcg"), "0.1.0")}
    copied = STORE.model_copy(update={"name": "copy"})
    found = [it for it in rules.host(status(datastores=(STORE, copied)), "0.1.0") if it.state is FAIL]
    assert [it.said for it in found] == ["has the identity of local: its folder was copied"]


def test_certificates_that_fit_that_are_missing_and_that_lie_open(tmp_path: Path) -> None:
    create_authority(tmp_path / "ca")
    issue(tmp_path / "ca", Identity(Role.OPERATOR, "ann"), tmp_path / "ann")
    (good,) = certificates("operator", tmp_path / "ann")
    assert good.state is OK
    (tmp_path / "ann" / "key.pem").chmod(0o644)
    (missing,) = certificates("operator", tmp_path / "nobody")
    (opened,) = certificates("operator", tmp_path / "ann")
    assert (missing.state, opened.state) == (FAIL, FAIL)
    assert missing.remedy and opened.remedy


def test_a_configuration_with_a_fault_is_told_with_the_fault(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('name = "h1"\ncolour = "red"\n')
    said = {check.name: check for check in host_checks(tmp_path / "agent.toml")}["agent.toml"]
    assert said.state is FAIL
    assert "colour: unknown key" in said.said


@pytest.fixture
def well(manager: FakeManager) -> FakeManager:
    manager.answers["GET /healthz"] = Health()
    manager.answers["GET /readyz"] = Ready()
    manager.answers["GET /hosts"] = [status()]
    manager.answers["GET /tasks"] = []
    return manager


def test_all_is_well(kvmove: Kvmove, well: FakeManager) -> None:
    done = kvmove("doctor")
    assert (done.code, done.err) == (0, "")
    assert "All is well." in done.out


def test_what_is_wrong_is_told_with_its_remedy_and_in_the_exit_code(kvmove: Kvmove, well: FakeManager) -> None:
    well.answers["GET /readyz"] = Unreachable("etcd does not answer", hint="look at etcd")
    done = kvmove("doctor")
    assert done.code == 1
    assert "etcd does not answer" in done.out
    assert "→ look at etcd" in done.out
    checks = json.loads(kvmove("doctor", "--json").out)["checks"]
    assert [it["name"] for it in checks if it["state"] == "fail"] == ["registry"]


def test_a_manager_that_is_away_is_a_finding_and_no_crash(kvmove: Kvmove, well: FakeManager) -> None:
    done = kvmove("doctor", "--server", "unix:/nowhere/manager.sock", "--json")
    assert done.code == 1
    assert [it["name"] for it in json.loads(done.out)["checks"]] == ["manager"]
