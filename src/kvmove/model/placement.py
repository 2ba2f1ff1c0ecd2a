"""Where VMs should be: rules, recommendations, and what maintenance of a host means for its VMs."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from kvmove.model.move import MoveKind
from kvmove.model.names import Name
from kvmove.model.strict import Strict

AUTO = "auto"
"""In place of a host's name: the manager chooses."""


class Mode(StrEnum):
    """What the manager does by itself. MANUAL: nothing, it recommends. PARTIAL: it also chooses a host where it is
    asked for one (`auto`). AUTOMATIC: it also applies its recommendations."""

    MANUAL = "manual"
    PARTIAL = "partial"
    AUTOMATIC = "automatic"


class RuleKind(StrEnum):
    """TOGETHER and APART are about the rule's VMs; MUST and SHOULD about the hosts that they run on."""

    TOGETHER = "together"
    APART = "apart"
    MUST = "must"
    SHOULD = "should"


class Rule(Strict):
    """A rule on where VMs run, by their names. SHOULD is given up where nothing else is possible; the others never."""

    name: Name
    kind: RuleKind
    vms: Annotated[tuple[Name, ...], Field(min_length=1)]
    hosts: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        about_hosts = self.kind in (RuleKind.MUST, RuleKind.SHOULD)
        if about_hosts and not self.hosts:
            raise ValueError(f"a rule {self.kind} names the hosts")
        if not about_hosts and self.hosts:
            raise ValueError(f"a rule {self.kind} is about VMs alone and names no hosts")
        if not about_hosts and len(set(self.vms)) < 2:
            raise ValueError(f"a rule {self.kind} names two VMs or more")
        return self


class Cause(StrEnum):
    """What a recommendation is made for."""

    RULE = "rule"
    COMPUTE = "compute"
    STORAGE = "storage"
    POWER = "power"


class Action(StrEnum):
    """What applying a recommendation does."""

    MOVE = "move"
    POWER_OFF = "power-off"
    POWER_ON = "power-on"


class Cost(Strict):
    """What a move takes. `bytes` go over the wire or between datastores, in about `seconds`; `points` is that in
    hundredths of load, to be set against a benefit."""

    bytes: int = 0
    seconds: float = 0.0
    points: float = 0.0


class Recommendation(Strict):
    """One thing to do, with its reasons in words. `id` is the same for the same thing, whenever it is recommended.

    `source` and `destination` are hosts, for a storage move datastores on the one `host`. `benefit` is by how many
    hundredths of load the busier of both goes down. For power, `vm` is empty and both are the host.
    """

    id: str
    cause: Cause
    action: Action = Action.MOVE
    kind: MoveKind | None = None
    vm: str = ""
    disk: str = ""
    host: str = ""
    source: str
    destination: str
    benefit: float = 0.0
    cost: Cost = Cost()
    reason: str = ""
    risk: str = ""


class HostBalance(Strict):
    """One host in figures: shares of one, with what waits counted in (see `placement.cluster`)."""

    name: Name
    cpu: float
    memory: float
    vms: int
    state: str = "up"


class BalanceStatus(Strict):
    """`imbalance` is the spread (standard deviation) of the hosts' loads, of one; `lasting` for how many seconds it
    has been over `threshold`, None: it is not."""

    mode: Mode
    imbalance: float
    threshold: float
    lasting: float | None = None
    hold_seconds: float
    hosts: tuple[HostBalance, ...] = ()
    note: str = ""


class BalancePlan(Strict):
    """What is recommended now, in the order in which it is to be done, and the imbalance then."""

    imbalance: float
    imbalance_after: float
    recommendations: tuple[Recommendation, ...] = ()
    notes: tuple[str, ...] = ()


class Applied(Strict):
    """A recommendation that was applied, and what came of it. `at` is RFC 3339."""

    at: str
    by: str
    recommendation: Recommendation
    task: str = ""
    outcome: str = ""


class ApplyRequest(Strict):
    """Which recommendations to apply; none named means all."""

    ids: tuple[str, ...] = ()


class Remaining(Strict):
    """A VM that stays on a host under maintenance, and why."""

    vm: str
    why: str


class PlannedStep(Strict):
    """What of one VM's way off a host has been decided; a disk that moves goes to the datastore of the same name."""

    vm: Name
    kind: MoveKind
    destination: Name


class EvacuationStep(Strict):
    """One VM's way off the host. Times are estimated seconds from the start."""

    vm: str
    power: str
    kind: MoveKind
    destination: Name
    why: str
    cost: Cost
    starts: float = 0.0
    ends: float = 0.0

    @property
    def decided(self) -> PlannedStep:
        return PlannedStep(vm=self.vm, kind=self.kind, destination=self.destination)


class EvacuationPlan(Strict):
    """What entering maintenance does, in order; at most `at_once` VMs move at a time. `changes` tells in words what is
    otherwise than in the plan that it was to follow."""

    host: Name
    steps: tuple[EvacuationStep, ...] = ()
    remains: tuple[Remaining, ...] = ()
    at_once: int = 1
    seconds: float = 0.0
    changes: tuple[str, ...] = ()


class MaintenanceState(StrEnum):
    """ENTERING: VMs are being moved off. ON: that has ended; what could not be moved is told."""

    ENTERING = "entering"
    ON = "on"


class HostMaintenance(Strict):
    """The mark of a host that takes no VM. `since` is RFC 3339; `steps` is what an evacuation under way follows."""

    state: MaintenanceState
    since: str
    by: str = ""
    task: str = ""
    move_disks: bool = False
    at_once: int | None = None
    steps: tuple[PlannedStep, ...] = ()
    remains: tuple[Remaining, ...] = ()


class MaintenanceRequest(Strict):
    """How to enter maintenance: `move_disks` allows moves of disks that no other host reaches; `at_once` is an upper
    limit of its own on moves at a time. `steps` are those of the plan that was shown, to be followed in that order as
    far as they are still possible; without any it is planned now."""

    move_disks: bool = False
    at_once: Annotated[int, Field(ge=1, le=64)] | None = None
    steps: Annotated[tuple[PlannedStep, ...], Field(max_length=4096)] = ()
