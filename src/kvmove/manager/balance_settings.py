"""`[balance]` of manager.toml: what the manager does about load by itself, and from when on. All shares are of one.

[balance]
mode = "manual"                       # or "partial", "automatic"
threshold = 0.10                      # spread of the hosts' loads from which on it is an imbalance
hold_seconds = 300                    # it has to last so long before automatic mode acts
margin = 0.03                         # a move has to help by so much more than it costs

[[balance.cluster]]                   # datastores between which disks may be moved
name = "flash"
datastores = ["fast1", "fast2"]

[balance.power]
mode = "automatic"
off = ["ipmitool", "-H", "{host}-bmc", "power", "off"]
on = ["ipmitool", "-H", "{host}-bmc", "power", "on"]
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvmove.model.names import Name
from kvmove.model.placement import Mode
from kvmove.model.strict import Strict
from kvmove.placement.compute import Tuning
from kvmove.placement.power import PowerTuning
from kvmove.placement.storage import StorageTuning

Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]


class DatastoreCluster(Strict):
    """A named group of datastores; disks are moved only within it."""

    name: Name
    datastores: Annotated[tuple[Name, ...], Field(min_length=2)]


class PowerSettings(Strict):
    """`off` and `on` are commands (no shell; `{host}` is the host's name) that run on the manager's machine. Hosts in
    `never` are not powered off: the manager's own, those of etcd."""

    mode: Literal["off", "manual", "automatic"] = "off"
    off: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    low: Fraction = 0.45
    high: Fraction = 0.81
    keep: Annotated[int, Field(ge=1)] = 2
    never: tuple[Name, ...] = ()
    timeout_seconds: Seconds = 60.0

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.mode != "off" and not (self.off and self.on):
            raise ValueError(f"power mode {self.mode} needs both commands, off and on")
        if self.low >= self.high:
            raise ValueError("power: low must be below high, or hosts would go on and off")
        return self

    @property
    def tuning(self) -> PowerTuning:
        return PowerTuning(self.low, self.high, self.keep, self.never)


class BalanceSettings(Strict):
    """How the manager balances. `rest_seconds`: a VM that was moved is left alone for so long. `at_once`: how many of
    its moves run at a time. `move_disks` allows moves of disks between hosts, which have to be worth their cost."""

    mode: Mode = Mode.PARTIAL
    threshold: Fraction = 0.10
    hot: Fraction = 0.90
    margin: Fraction = 0.03
    hold_seconds: Annotated[float, Field(ge=0)] = 300.0
    rest_seconds: Annotated[float, Field(ge=0)] = 1800.0
    interval_seconds: Seconds = 30.0
    at_once: Annotated[int, Field(ge=1, le=64)] = 4
    move_disks: bool = False
    space: Fraction = 0.80
    latency_ms: Annotated[float, Field(gt=0)] = 15.0
    clusters: Annotated[tuple[DatastoreCluster, ...], Field(alias="cluster")] = ()
    power: PowerSettings = PowerSettings()

    @property
    def tuning(self) -> Tuning:
        return Tuning(self.threshold, self.hot, self.margin, self.move_disks)

    @property
    def storage(self) -> StorageTuning:
        return StorageTuning(self.space, self.latency_ms)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        return {cluster.name: cluster.datastores for cluster in self.clusters}
