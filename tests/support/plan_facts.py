"""All that a plan is made of, as a good case that a test changes."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kvmove.migration.plan import check, make_plan
from kvmove.migration.probed import Known, Probed
from kvmove.model.finding import Finding
from kvmove.model.host import HostStatus
from kvmove.model.move import MovePlan, MoveRequest
from kvmove.model.ownership import Ownership
from kvmove.model.probe import BridgeProbe, HereFacts, NetworkProbe, PairProbe
from kvmove.model.vm import VmStatus
from tests.support import samples
from tests.support.nouns import VM, host_status, vm_status

OWNED = Ownership(vm=VM, owner="h1", epoch=3)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def pair(number: int, **more: Any) -> PairProbe:
    """The NICs `mig<number>` of h1 and h2, which reach each other."""
    ends = {"source_address": f"10.1{number}.0.1", "destination_address": f"10.1{number}.0.2"}
    fine = {"near": f"mig{number}", "far": f"mig{number}", "reachable": True, "round_trip_ms": 0.2, "mtu": 1500}
    return PairProbe.model_validate(ends | fine | {"whole": True} | more)


def probed(**more: Any) -> Probed:
    """Probes that found nothing wrong."""
    here = HereFacts(clock=0.0, mtus={"mig0": 1500, "mig1": 1500})
    network = NetworkProbe(pairs=(pair(0), pair(1)), bridges=(BridgeProbe(bridge="br0", connected=True),))
    fine = Probed(samples.qemu_facts(), samples.qemu_facts(), here, here, None, network, NOW)
    return fine._replace(**more)


@dataclass(frozen=True)
class ProbedFacts:
    """A move of `web` from h1 to h2, with probes."""

    request: MoveRequest = field(default_factory=lambda: MoveRequest(vm="web", host="h2"))
    vm: VmStatus = field(default_factory=vm_status)
    source: HostStatus = field(default_factory=lambda: host_status(1))
    destination: HostStatus = field(default_factory=lambda: host_status(2))
    known: Known = field(default_factory=lambda: Known(probed=probed()))

    def of_vm(self, **changes: Any) -> "ProbedFacts":
        return replace(self, vm=self.vm.model_copy(update=changes))

    def of_destination(self, **changes: Any) -> "ProbedFacts":
        assert self.destination.info is not None
        info = self.destination.info.model_copy(update=changes)
        return replace(self, destination=self.destination.model_copy(update={"info": info}))

    def found(self, **changes: Any) -> "ProbedFacts":
        """The probes found that instead."""
        return replace(self, known=self.known._replace(probed=self.known.probed._replace(**changes)))

    def network(self, *pairs: PairProbe, bridges: tuple[BridgeProbe, ...] = ()) -> "ProbedFacts":
        return self.found(network=NetworkProbe(pairs=pairs, bridges=bridges))

    def check(self) -> list[Finding]:
        return check(self.request, self.vm, self._hosts(), OWNED, self.known)

    def plan(self) -> MovePlan:
        return make_plan(self.request, self.vm, self._hosts(), OWNED, "m1", self.known)

    def _hosts(self) -> dict[str, HostStatus]:
        return {"h1": self.source, "h2": self.destination}
