"""When a fact is well, to be looked at, or wrong: the rules of `kvmove doctor`. Pure; times and figures come in."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from kvmove.model.check import Check, CheckState
from kvmove.model.host import DatastoreInfo, HostStatus
from kvmove.model.task import Task, TaskState
from kvmove.units import format_size

CERTIFICATE_WARN = timedelta(days=30)
CLOCK_WARN_SECONDS = 2.0
CLOCK_FAIL_SECONDS = 60.0
FREE_WARN = 0.10
FREE_FAIL = 0.02
OLDEST_QEMU = (7, 2, 0)
SAFE_QEMU = (7, 2, 14)
"""Before it 7.2's NBD server can be crashed by who may reach it (CVE-2024-7409), and `qemu-img info` be led astray by
an image (CVE-2024-4467)."""

OK, WARN, FAIL = CheckState.OK, CheckState.WARN, CheckState.FAIL


def qemu(about: str, version: str) -> Check:
    """Whether this QEMU is new enough, and known to be safe."""
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if number < OLDEST_QEMU:
        return Check(
            about=about, name="QEMU", state=FAIL, said=f"QEMU {version} is too old",
            remedy="install QEMU 7.2 or newer",
        )  # fmt: skip
    if number < SAFE_QEMU:
        return Check(
            about=about, name="QEMU", state=WARN, said=f"QEMU {version} lacks fixes of its NBD server and of qemu-img",
            remedy="update it: 7.2.14 or newer has them (Debian 12: apt-get install --only-upgrade qemu-system-x86)",
        )  # fmt: skip
    return Check(about=about, name="QEMU", state=OK, said=f"QEMU {version}")


def accelerator(about: str, can_virtualize: bool, has_device: bool, found: str) -> Check:
    """Whether guests run on the CPU itself: on what its flags say, and on what a guest of three instructions showed."""
    if found == "kvm":
        return Check(about=about, name="KVM", state=OK, said="a guest ran with it")
    if not can_virtualize:
        said, remedy = "the CPU offers no vmx or svm", "turn virtualization on in the firmware, or use another machine"
    elif not has_device:
        said, remedy = "there is no /dev/kvm", "load the module: modprobe kvm_intel, or kvm_amd"
    else:
        said, remedy = "a guest made no progress with /dev/kvm", "is this a guest itself, without nested KVM?"
    return Check(about=about, name="KVM", state=WARN, said=f"{said}: guests are emulated, slowly", remedy=remedy)


def certificate(about: str, end: datetime, now: datetime) -> Check:
    """How long a certificate is good for."""
    left, day = end - now, end.strftime("%Y-%m-%d")
    remedy = "issue a new one: kvmove pki issue, put it in place of the old and restart the daemon"
    if left <= timedelta(0):
        return Check(about=about, name="certificate", state=FAIL, said=f"it ended on {day}", remedy=remedy)
    state = WARN if left < CERTIFICATE_WARN else OK
    said = f"it ends on {day}, in {left.days} days"
    return Check(about=about, name="certificate", state=state, said=said, remedy=remedy if state is WARN else "")


def clock(seconds: float) -> Check:
    """How far this machine's clock is from the manager's; `seconds` is what is left when the way is taken off."""
    said = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the manager's"
    if abs(seconds) < CLOCK_WARN_SECONDS:
        return Check(about="this machine", name="clock", state=OK, said="as the manager's")
    state = FAIL if abs(seconds) >= CLOCK_FAIL_SECONDS else WARN
    return Check(
        about="this machine", name="clock", state=state, said=said, remedy="let both follow a time server: timedatectl"
    )


def same_version(about: str, here: str, there: str) -> Check:
    """Whether a part is of our own version."""
    if here == there:
        return Check(about=about, name="version", state=OK, said=f"kvmove {there}")
    return Check(
        about=about, name="version", state=WARN, said=f"kvmove {there}, and {here} here",
        remedy="install one version everywhere: the manager first, then the agents, one after the other",
    )  # fmt: skip


def datastore(about: str, store: DatastoreInfo) -> Check:
    """Whether it has room. One of devices is full by design when all are taken."""
    share = store.free / store.size if store.size else 1.0
    said = f"{format_size(store.free)} free of {format_size(store.size)}"
    name = f"datastore {store.name}"
    if store.devices is not None:
        return Check(about=about, name=name, state=OK, said=f"{len(store.devices)} devices free")
    if share >= FREE_WARN:
        return Check(about=about, name=name, state=OK, said=said)
    state = FAIL if share < FREE_FAIL else WARN
    return Check(
        about=about, name=name, state=state, said=said,
        remedy=f"make room there, or move disks away: kvmove move VM --datastore OTHER ({store.path})",
    )  # fmt: skip


def identities(about: str, stores: Sequence[DatastoreInfo]) -> Iterable[Check]:
    """Two datastores of one host with one identity: a copied folder, and kvmove would take them for the same."""
    for number, store in enumerate(stores):
        for other in stores[:number]:
            if other.id == store.id:
                yield Check(
                    about=about, name=f"datastore {store.name}", state=FAIL,
                    said=f"has the identity of {other.name}: its folder was copied",
                    remedy="make a datastore of a folder of its own and move the disks there",
                )  # fmt: skip


def host(status: HostStatus, version: str) -> Iterable[Check]:
    """All that is known of a host by its agent's word."""
    about = f"host {status.name}"
    info = status.info
    if not status.reachable or info is None:
        yield Check(
            about=about, name="agent", state=FAIL, said=status.reason or "it was never heard of",
            remedy=f"look on {status.name} ({status.control}): systemctl status kvmove-agent",
        )  # fmt: skip
        return
    yield Check(about=about, name="agent", state=OK, said=f"answers at {status.control}")
    yield same_version(about, version, info.version)
    yield qemu(about, info.qemu_version)
    if info.accelerator != "kvm":
        yield Check(
            about=about, name="KVM", state=WARN, said="guests are emulated, slowly",
            remedy=f"on {status.name}, kvmove doctor says why",
        )  # fmt: skip
    if not info.nics:
        yield Check(
            about=about, name="migration NICs", state=FAIL, said="none is up with an IPv4 address",
            remedy=f"on {status.name}: ip -br address, and [[nic]] in agent.toml",
        )  # fmt: skip
    else:
        names = ", ".join(f"{nic.name} {nic.address}" for nic in info.nics)
        yield Check(about=about, name="migration NICs", state=OK, said=names)
    for store in info.datastores:
        yield datastore(about, store)
    yield from identities(about, info.datastores)


def nic(name: str, up: bool, address: str | None, mtu: int) -> Check:
    """A migration NIC of this machine as the kernel has it."""
    title, remedy = f"migration NIC {name}", f"ip link set {name} up; ip -br address show {name}"
    if not up or address is None:
        said = "is down" if not up else "has no IPv4 address"
        return Check(about="this machine", name=title, state=FAIL, said=said, remedy=remedy)
    if mtu < 1500:
        return Check(
            about="this machine", name=title, state=WARN, said=f"{address}, MTU {mtu}: small packets cost time",
            remedy=f"ip link set {name} mtu 1500, on both sides and on the switch",
        )  # fmt: skip
    return Check(about="this machine", name=title, state=OK, said=f"{address}, MTU {mtu}")


def tasks(all_tasks: Iterable[Task]) -> Check:
    """Whether a move wants a person."""
    stuck = [task for task in all_tasks if task.state is TaskState.ATTENTION]
    if not stuck:
        return Check(about="manager", name="tasks", state=OK, said="none needs attention")
    return Check(
        about="manager", name="tasks", state=WARN,
        said=f"{len(stuck)} needed attention, the last one {stuck[0].id} of {stuck[0].vm}",
        remedy=f"kvmove task show {stuck[0].id}",
    )  # fmt: skip
