"""What probes say against a move: each finding alone, with its code, its severity and its words."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import ValidationError

from kvmove.errors import CheckFailed
from kvmove.migration.findings import warning
from kvmove.migration.probed import Clocks
from kvmove.model.finding import Acceptable, Severity
from kvmove.model.host import MigrationNic
from kvmove.model.move import MoveRequest
from kvmove.model.probe import BridgeProbe, CertificateFacts, HereFacts
from kvmove.model.vm import VmState
from tests.support import samples
from tests.support.plan_facts import NOW, ProbedFacts, pair

Change = Callable[[ProbedFacts], ProbedFacts]
BLOCKER, WARNING = Severity.BLOCKER, Severity.WARNING


def bridge(connected: bool | None, reason: str = "", name: str = "br0") -> BridgeProbe:
    return BridgeProbe(bridge=name, connected=connected, reason=reason)


def certified(seconds: float) -> Change:
    ends = (NOW + timedelta(seconds=seconds)).isoformat()
    here = HereFacts(clock=0.0, certificates=(CertificateFacts(path="/pki/cert.pem", expires=ends),))
    return lambda facts: facts.found(destination_here=here)


DAY = 86400.0
FOUND: dict[str, tuple[Change, str, Severity, str]] = {
    "machine": (
        lambda f: f.found(destination_qemu=samples.qemu_facts().model_copy(update={"machines": ("pc",)})),
        *("machine-type-missing", BLOCKER, "h2 .* has no machine type pc-q35-7.2, which web is"),
    ),
    "features": (
        lambda f: f.found(destination_qemu=samples.qemu_facts("popcnt", "sse4.2", "avx512f")),
        *("cpu-feature-missing", BLOCKER, "web sees the CPU features popcnt, sse4.2 on h1, and h2 cannot"),
    ),
    "features of a VM that is off": (
        lambda f: f.of_vm(state=VmState.OFF).found(destination_qemu=samples.qemu_facts("popcnt")),
        *("cpu-feature-missing", WARNING, "h2 cannot give web the CPU features popcnt"),
    ),
    "model": (
        lambda f: f.found(
            destination_qemu=samples.qemu_facts().model_copy(
                update={"cpus": tuple(it.model_copy(update={"known": False}) for it in samples.qemu_facts().cpus)}
            )
        ),
        *("cpu-model-missing", BLOCKER, "has no CPU model Nehalem"),
    ),
    "bridge": (
        lambda f: f.network(pair(0), pair(1), bridges=(bridge(False), bridge(False, name="other"))),
        *("bridge-apart", BLOCKER, "br0 on h2 is not in the same network as on h1"),
    ),
    "bridge unknown": (
        lambda f: f.network(pair(0), pair(1), bridges=(bridge(None, "h1 cannot send: it is down"),)),
        *("probe-failed", WARNING, "br0 .* was not found out: h1 cannot send"),
    ),
    "boot file": (
        lambda f: f.found(destination_here=HereFacts(clock=0.0, missing_files=("/boot/vmlinuz",))),
        *("boot-file-missing", BLOCKER, "web boots from /boot/vmlinuz, which h2 does not have"),
    ),
    "clock ahead": (
        lambda f: f.found(clocks=Clocks(1.3, 0.2)),
        *("clocks-differ", WARNING, "h2 is 1.3 s ahead of that of h1.*certificates"),
    ),
    "clock behind": (lambda f: f.found(clocks=Clocks(-9, 0.2)), "clocks-differ", WARNING, "h2 is 9.0 s behind"),
    "certificate": (certified(2 * DAY), "certificate-expiring", WARNING, "cert.pem on h2 expires in 2 days"),
    "certificate gone": (certified(-5), "certificate-expiring", WARNING, "cert.pem on h2 has expired"),
    "one pair": (
        lambda f: f.network(pair(0), pair(1, reachable=False, reason="no answer")),
        *("nic-pair-unreachable", WARNING, "mig1 of h1 and mig1 of h2: no answer"),
    ),
    "all pairs": (
        lambda f: f.network(*(pair(it, reachable=False, reason="Connection refused") for it in (0, 1))),
        *("data-port-unreachable", BLOCKER, "no pair .*mig0 of h1 .*refused; mig1 of h1"),
    ),
    "large packets": (
        lambda f: f.network(pair(0, whole=False, mtu=9000), pair(1)),
        *("mtu-too-large", WARNING, "packets of 9000 bytes, .* mig0 of h1 and mig0 of h2"),
    ),
    "mtu": (
        lambda f: f.found(source_here=HereFacts(clock=0.0, mtus={"mig0": 9000, "mig1": 1500})),
        *("mtu-differs", WARNING, "mig0 of h1 9000, mig0 of h2 1500"),
    ),
    "failed": (
        lambda f: f.found(network=None, failed=(warning("probe-failed", "the clock was not found out", "again"),)),
        *("probe-failed", WARNING, "the clock"),
    ),
    "others have a word": (
        lambda f: replace(f, known=f.known._replace(told=(warning("queued", "it would wait", "wait"),))),
        *("queued", WARNING, "it would wait"),
    ),
}


@pytest.mark.parametrize(("change", "code", "severity", "words"), FOUND.values(), ids=FOUND)
def test_each_finding_of_a_probe_stands_alone(change: Change, code: str, severity: Severity, words: str) -> None:
    (found,) = change(ProbedFacts()).check()
    assert (found.code, found.severity) == (code, severity)
    assert re.search(words, found.what), found.what
    assert found.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f,
        lambda f: f.found(clocks=Clocks(1.3, 0.4)),
        lambda f: f.found(source_qemu=samples.qemu_facts("popcnt"), destination_qemu=samples.qemu_facts("popcnt")),
        certified(8 * DAY),
        lambda f: f.network(pair(0, whole=None), pair(1, whole=None)),
        lambda f: f.of_vm(state=VmState.OFF, definition=f.vm.definition.model_copy(update={"disks": ()})).network(
            pair(0, reachable=False, reason="x")
        ),
    ],
)
def test_what_is_right_is_no_finding(change: Change) -> None:
    """Nor is a clock within its uncertainty, what the guest does not see, or a ping that nobody answers."""
    assert change(ProbedFacts()).check() == []


def test_pairs_in_no_common_network_are_routes_where_a_probe_reached_them() -> None:
    nics = (MigrationNic(name="far0", address="10.99.0.2/24"), MigrationNic(name="far1", address="10.98.0.2/24"))
    routed = ProbedFacts().of_destination(nics=nics)
    assert [it.code for it in routed.network().check()] == ["nics-apart"]
    through = pair(0, far="far0", destination_address="10.99.0.2")
    silent = pair(1, far="far1", destination_address="10.98.0.2", reachable=False, reason="no answer")
    reached = routed.network(through, silent)
    assert reached.check() == []
    assert [(it.nic, it.source_address, it.destination_address) for it in reached.plan().routes] == [
        ("mig0", "10.10.0.1", "10.99.0.2")
    ]


def test_a_blocker_that_is_accepted_is_a_warning_and_the_plan_says_so() -> None:
    apart = FOUND["bridge"][0](ProbedFacts())
    with pytest.raises(CheckFailed, match="not in the same network") as refused:
        apart.plan()
    assert "--accept bridge-apart" in str(refused.value.hint)
    accepted = replace(apart, request=MoveRequest(vm="web", host="h2", accept=(Acceptable.BRIDGE_APART,)))
    assert [(it.code, it.severity) for it in accepted.check()] == [("bridge-apart", WARNING)]
    assert accepted.plan().accepted == (Acceptable.BRIDGE_APART,)


def test_what_would_break_the_vm_cannot_be_accepted() -> None:
    with pytest.raises(ValidationError):
        MoveRequest.model_validate({"vm": "web", "accept": ["cpu-feature-missing"]})
    other = FOUND["model"][0](ProbedFacts(request=MoveRequest(vm="web", host="h2", accept=(Acceptable.BRIDGE_APART,))))
    assert [it.severity for it in other.check()] == [BLOCKER]
