"""A move: what was asked for, what was planned, how far it is, and what it was in the end."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator

from kvmove.model.finding import Acceptable, Finding
from kvmove.model.forecast import Forecast
from kvmove.model.image import BackingImage
from kvmove.model.names import Name
from kvmove.model.priority import Priority
from kvmove.model.schedule import StartTime, Window
from kvmove.model.strict import Strict
from kvmove.model.terms import Downtime, MoveTerms
from kvmove.model.time_spent import Bottleneck, Compressed, WhereTimeWent
from kvmove.model.vm import DiskDefinition, DiskFormat, Power, Provisioning, VmDefinition


class Phase(StrEnum):
    """Where a move is; `migration.phases` holds the table of what may follow what."""

    PREPARING = "preparing"
    COPYING_DISKS = "copying-disks"
    COPYING_MEMORY = "copying-memory"
    SWITCHING_OVER = "switching-over"
    CLEANING_UP = "cleaning-up"
    COMPLETED = "completed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    IN_DOUBT = "in-doubt"
    LOST = "lost"  # the VM itself died (its QEMU ended) while it moved


class Via(StrEnum):
    """The network that disks take: the migration NICs, or that of a storage which both hosts reach."""

    AUTO = "auto"
    MIGRATION = "migration"
    STORAGE = "storage"


class MoveKind(StrEnum):
    """What a move moves: the host alone, disks alone, or both."""

    HOST = "host"
    STORAGE = "storage"
    UNIFIED = "unified"


class NicState(StrEnum):
    """Whether a move uses a migration NIC, or has left it and tries it again and again."""

    UP = "up"
    LEFT = "left"


class DiskRequest(Strict):
    """Where one disk is to go, and as what. None leaves it to what the request says of all disks."""

    datastore: Name | None = None
    format: DiskFormat | None = None
    provisioning: Provisioning | None = None


def _disk_request(value: object) -> object:
    """`DATASTORE[:FORMAT]`, as the command line has it, or the fields one by one."""
    if not isinstance(value, str):
        return value
    datastore, colon, form = value.partition(":")
    return {"datastore": datastore or None} | ({"format": form} if colon else {})


class MoveRequest(MoveTerms):
    """What an operator asks for. Without `host` the VM stays on its host, and only disks move.

    `datastore` names the destination's datastore for all disks of which `disks` does not say it; without either a disk
    stays on a datastore that both hosts share, or goes to the one of equal name. `format` and `provisioning` are for
    all disks that move, None keeps each one's own; `flatten` makes one image of a disk and its backing images. `via`
    AUTO takes the storage network where the source's host reaches the destination's datastores.

    `nics` limits the source's migration NICs; none means all. `max_downtime_ms` bounds what QEMU may plan for the
    last memory round. `verify` compares both disks as they were at the switchover.

    A move that has to wait for room goes before others of less `priority`. It begins not before `at`, and only within
    the daily `window` (times of day are the manager's); once begun it runs to its end.

    `only_kind` and `from_host` are for whoever decided on the move from a picture of the hosts: the checks refuse it,
    also when its turn comes later, if it would be another kind of move or start from another host.

    `accept` are blockers that are to be warnings for this move: the operator knows better.
    """

    vm: str
    host: str | None = None
    datastore: str | None = None
    disks: dict[str, Annotated[DiskRequest, BeforeValidator(_disk_request)]] = {}
    format: DiskFormat | None = None
    provisioning: Provisioning | None = None
    flatten: bool = False
    via: Via = Via.AUTO
    encrypt: bool = True
    verify: bool = False
    nics: tuple[str, ...] = ()
    max_downtime_ms: Downtime = 300
    priority: Priority = Priority.NORMAL
    at: StartTime | None = None
    window: Window | None = None
    only_kind: MoveKind | None = None
    from_host: Name | None = None
    accept: tuple[Acceptable, ...] = ()


class HostRef(Strict):
    """A host by name and control address (`host:port`)."""

    name: Name
    control: str


class Route(Strict):
    """A pair of migration NICs that reach each other; addresses are IPv4 without prefix, `speed` in bytes/s."""

    nic: str
    source_address: str
    destination_address: str
    port: int
    speed: int = 0


class DiskPlacement(Strict):
    """One disk of a move. `size` in bytes.

    `format` and `provisioning` are those at the destination, where `space` bytes are reserved for it (the guest may
    write more); `on_device` says that it lies on a block device there, and `backing` are the images that the disk rests
    on and that come along. `reached_as` is what the source's host calls the destination's datastore, if the source
    writes the disk there by itself, over the storage network; else its data goes over the migration NICs. `why` says
    why it is so.
    """

    name: Name
    size: int
    source_datastore: Name
    destination_datastore: Name
    source_format: DiskFormat = DiskFormat.RAW
    format: DiskFormat = DiskFormat.RAW
    provisioning: Provisioning = Provisioning.THIN
    space: int = 0
    on_device: bool = False
    backing: tuple[BackingImage, ...] = ()
    reached_as: Name | None = None
    why: str = ""


class MovePlan(MoveTerms):
    """A move, decided: both agents act on this one object and on nothing else.

    `disks` are those whose data moves; `stays` those on datastores that both hosts share, which nobody copies, makes
    or deletes. `vm` is the definition as it will be at the destination; `power` is how the VM was found. `epoch` is
    that under which the source owns the VM; the hand-over makes it `epoch + 1`.
    """

    move_id: str
    vm: VmDefinition
    source: HostRef
    destination: HostRef
    disks: tuple[DiskPlacement, ...]
    routes: tuple[Route, ...]
    epoch: int
    stays: tuple[DiskPlacement, ...] = ()
    power: Power = Power.RUNNING
    encrypt: bool = True
    verify: bool = False
    max_downtime_ms: int = 300
    accepted: tuple[Acceptable, ...] = ()

    @property
    def over_storage(self) -> bool:
        """Whether the source writes the disks to the destination's datastores by itself. All of them, or none."""
        return bool(self.disks) and all(disk.reached_as is not None for disk in self.disks)

    def disks_of(self, datastore: Callable[[DiskPlacement], str]) -> dict[str, list[str]]:
        """The names of the disks that move, by a datastore of theirs."""
        found: dict[str, list[str]] = {}
        for disk in self.disks:
            found.setdefault(datastore(disk), []).append(disk.name)
        return found

    def new_disk(self, placement: DiskPlacement) -> DiskDefinition:
        """The disk as it will be at the destination."""
        return next(disk for disk in self.vm.disks if disk.name == placement.name)

    def old_disk(self, placement: DiskPlacement) -> DiskDefinition:
        """The disk as it is at the source, to be found and read: its provisioning there is not told."""
        there = {"datastore": placement.source_datastore, "format": placement.source_format}
        return self.new_disk(placement).model_copy(update=there)

    @property
    def moves_memory(self) -> bool:
        """Whether there is memory to move: not where the VM stays in its QEMU, or is off."""
        return self.kind is not MoveKind.STORAGE and self.power is not Power.OFF

    @property
    def kind(self) -> MoveKind:
        """Follows from where the disks lie."""
        if self.source.name == self.destination.name:
            return MoveKind.STORAGE
        return MoveKind.UNIFIED if self.disks else MoveKind.HOST


class Claim(Strict):
    """What a move takes of one limit: `units` of the `capacity` of `what`, a host, NIC or datastore.

    `key` tells one such thing from another; `what` names it for people.
    """

    key: str
    what: str
    units: int
    capacity: int


class MoveCheck(Strict):
    """The answer to a check that nothing blocks: what a move would do, and what to know before it starts."""

    plan: MovePlan
    findings: tuple[Finding, ...] = ()
    forecast: Forecast | None = None


class DiskProgress(Strict):
    """How far one disk is. Bytes; `copied` never falls but for a re-copy, which `recopied` counts. `writes` of the
    guest were mirrored and answered so far, after `held_seconds` in all. `regions` is a picture of the disk, from its
    beginning to its end, in at most 512 letters: `.` uncopied, `-` partly copied, `*` being copied, `#` copied, `!` to
    be copied again, `+` copied again."""

    name: Name
    total: int = 0
    copied: int = 0
    recopied: int = 0
    mode: str = "async"
    reason: str = ""
    buffered: int = 0
    mirrored: int = 0
    writes: int = 0
    held_seconds: float = 0.0
    regions: str = ""


class MemoryProgress(Strict):
    """QEMU's memory rounds. Bytes, bytes/s; `throttle` is the share of time (percent) that vCPUs are held back."""

    total: int = 0
    transferred: int = 0
    remaining: int = 0
    rounds: int = 0
    dirty_rate: int = 0
    throttle: int = 0


class NicProgress(Strict):
    """What one migration NIC of the source has sent for this move: bytes, disks and memory; bytes/s now, and over the
    time in which it sent anything; and how many streams of the disks live on it.

    While it is left, `reason` says why; else it is empty. `times_left` and `seconds_left`: how often and how long.
    """

    nic: str
    sent: int = 0
    rate: int = 0
    streams: int = 0
    average: int = 0
    state: NicState = NicState.UP
    reason: str = ""
    times_left: int = 0
    seconds_left: float = 0.0


class MoveProgress(Strict):
    """A snapshot. `percent` and `bytes_done` never run backwards within a move; `eta_seconds` None is unknown. The time
    to go lies most likely between `eta_low` and `eta_high`, which are known when `eta_seconds` is.

    `paused_by` is whoever paused the copy, empty if nobody did; `waits_for_word` says that all is in step and the
    switchover has to be let go, or its time to come. `bandwidth` is the cap now and `slowed_to` the rate to which the
    copy holds itself for the guest's sake (bytes/s, 0: none); `max_downtime_ms` the operator's limit now.

    `bottleneck` is what the copy has waited for most so far; None while that cannot be told.
    """

    phase: Phase
    percent: float = 0.0
    bytes_done: int = 0
    bytes_total: int = 0
    rate: int = 0
    eta_seconds: float | None = None
    eta_low: float | None = None
    eta_high: float | None = None
    elapsed_seconds: float = 0.0
    disks: tuple[DiskProgress, ...] = ()
    memory: MemoryProgress = MemoryProgress()
    nics: tuple[NicProgress, ...] = ()
    message: str = ""
    paused_by: str = ""
    waits_for_word: bool = False
    bandwidth: int = 0
    max_downtime_ms: int = 0
    slowed_to: int = 0
    bottleneck: Bottleneck | None = None
    compressed: Compressed | None = None


class DiskReport(Strict):
    """One disk at the end. Bytes, but for `writes_…`, which count mirrored writes. `moved_by` has the bytes that each
    rung of the offload ladder moved, on one host.

    Digests are those of the disk at the switchover; empty when not verified. `hold_…` say how long the guest's mirrored
    writes were held (milliseconds; the percentiles are upper bounds, at most 19 % high).
    """

    name: Name
    size: int
    data_sent: int = 0
    writes_forwarded: int = 0
    writes_ignored: int = 0
    recopied: int = 0
    mode_changes: tuple[str, ...] = ()
    moved_by: dict[str, int] = {}
    source_digest: str = ""
    destination_digest: str = ""
    hold_p50_ms: float = 0.0
    hold_p99_ms: float = 0.0
    hold_worst_ms: float = 0.0


class PhaseTime(Strict):
    phase: Phase
    seconds: float


class Change(Strict):
    """Something that was otherwise from then on (seconds since the move began), and why."""

    seconds: float
    what: str


class MoveReport(Strict):
    """What a completed move was, as measured. `downtime_ms` is QEMU's figure; `switchover_ms` names its parts.

    `changes` are those of what steers the move, by an operator or by itself, and of its NICs; `slowed_seconds` is how
    long the copy held itself back for the guest's sake. `nics` are as they were last seen; their rates are averages.
    """

    seconds: float
    phases: tuple[PhaseTime, ...]
    downtime_ms: float
    switchover_ms: dict[str, float]
    bytes_per_nic: dict[str, int]
    memory_bytes: int
    memory_rounds: int
    disks: tuple[DiskReport, ...]
    encrypted: bool
    changes: tuple[Change, ...] = ()
    slowed_seconds: float = 0.0
    nics: tuple[NicProgress, ...] = ()
    where_time_went: WhereTimeWent | None = None
    bottleneck: Bottleneck | None = None
    compressed: Compressed | None = None


class MoveStatus(Strict):
    """A move as an agent tells it: progress, and once ended (`outcome` set) the report or the problem.

    `vm_state` is a sentence on where the VM is now, `running on h1`.
    """

    move_id: str
    plan: MovePlan
    progress: MoveProgress
    outcome: Phase | None = None
    report: MoveReport | None = None
    problem: dict[str, object] | None = None
    vm_state: str = ""
