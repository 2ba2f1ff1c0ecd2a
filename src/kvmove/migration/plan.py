"""A move, planned: what an operator asked for and what the hosts report become one object, or all that blocks it. Pure.

Invariant: a plan that `make_plan` gives has passed `check` on the very same facts. Facts may be seconds old; what
changes in between (space, a second request) is caught by the agents and the registry, which decide.

It asks no host anything, reserves nothing, and finds no VM or host by name: the caller does.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvmove.errors import NotFound
from kvmove.migration.findings import as_accepted, refuse_blockers
from kvmove.migration.preflight import Situation, findings_of, first_row
from kvmove.migration.preflight_disks import destination_datastore, stays_in_place, storage_way
from kvmove.migration.preflight_images import NewImage, new_image
from kvmove.migration.probed import NOTHING_KNOWN, Known
from kvmove.migration.routes import routes
from kvmove.model.finding import Finding
from kvmove.model.host import HostInfo, HostStatus
from kvmove.model.move import DiskPlacement, HostRef, MovePlan, MoveRequest
from kvmove.model.ownership import Ownership
from kvmove.model.terms import terms_of
from kvmove.model.vm import DiskDefinition, Power, VmDefinition, VmStatus


def check(
    request: MoveRequest,
    vm: VmStatus,
    hosts: Mapping[str, HostStatus],
    ownership: Ownership | None,
    known: Known = NOTHING_KNOWN,
) -> list[Finding]:
    """All that blocks this move, and all that one should know before it starts.

    :param hosts: at least the VM's host and the destination.
    :param ownership: the registry's record of the VM; None when it has none.
    :param known: what was found out on purpose: of the disks' images, of the networks.
    :raise NotFound: one of the two hosts is not in `hosts`.
    """
    return _judged(_situation(request, vm, hosts, ownership, known))


def can_compare(
    request: MoveRequest, vm: VmStatus, hosts: Mapping[str, HostStatus], ownership: Ownership | None
) -> bool:
    """Whether there are two hosts that answer and a VM that can move between them: whether probes make sense."""
    situation = _situation(request, vm, hosts, ownership, Known())
    return situation.source.name != situation.destination.name and not first_row(situation)


def make_plan(
    request: MoveRequest,
    vm: VmStatus,
    hosts: Mapping[str, HostStatus],
    ownership: Ownership | None,
    move_id: str,
    known: Known = NOTHING_KNOWN,
) -> MovePlan:
    """The plan of this move; parameters as of `check`.

    :raise CheckFailed: something blocks it; all of it is in `checks`, as words in `detail` and `hint`.
    :raise NotFound: one of the two hosts is not in `hosts`.
    """
    situation = _situation(request, vm, hosts, ownership, known)
    refuse_blockers(_judged(situation), f"{vm.state} on {vm.host}")
    source, destination = situation.source.info, situation.destination.info
    if source is None or destination is None or ownership is None:
        raise NotFound("a host or the VM's record is missing")  # the checks above have refused this
    disks = vm.definition.disks
    stays = [disk for disk in disks if stays_in_place(request, disk, source, destination)]
    way = storage_way(request, disks, source, destination)
    places = {disk.name: _placement(situation, disk, source, destination) for disk in disks}
    return MovePlan(
        move_id=move_id,
        vm=_at_destination(vm.definition, places),
        source=_ref(situation.source),
        destination=_ref(situation.destination),
        disks=tuple(
            places[disk.name].model_copy(update={"reached_as": way.names.get(disk.name), "why": way.why})
            for disk in disks
            if disk not in stays
        ),
        stays=tuple(places[disk.name] for disk in stays),
        routes=routes(source, destination, request.nics, known.probed.reached())
        if source.name != destination.name
        else (),
        epoch=ownership.epoch,
        power=Power(vm.state.value),
        encrypt=request.encrypt,
        verify=request.verify,
        accepted=request.accept,
        max_downtime_ms=request.max_downtime_ms,
        **terms_of(request),
    )


def _judged(situation: Situation) -> list[Finding]:
    return [as_accepted(finding, situation.request.accept) for finding in findings_of(situation)]


def _situation(
    request: MoveRequest, vm: VmStatus, hosts: Mapping[str, HostStatus], ownership: Ownership | None, known: Known
) -> Situation:
    wanted = request.host or vm.host
    for name in (vm.host, wanted):
        if name not in hosts:
            raise NotFound(f"there is no host {name!r}", hint="see `kvmove host list`")
    return Situation(request, vm, hosts[vm.host], hosts[wanted], ownership, known)


def _at_destination(definition: VmDefinition, places: Mapping[str, DiskPlacement]) -> VmDefinition:
    """The definition as it is there: the same machine, other datastores and images."""
    disks = tuple(
        disk.model_copy(
            update={
                "datastore": places[disk.name].destination_datastore,
                "format": places[disk.name].format,
                "provisioning": places[disk.name].provisioning,
            }
        )
        for disk in definition.disks
    )
    return definition.model_copy(update={"disks": disks})


def _placement(now: Situation, disk: DiskDefinition, source: HostInfo, destination: HostInfo) -> DiskPlacement:
    datastore = destination_datastore(now.request, disk, source, destination)
    if datastore is None:
        raise NotFound(f"{destination.name} has no datastore for disk {disk.name}")  # the checks have refused this
    stays = stays_in_place(now.request, disk, source, destination)
    new = new_image(now.request, disk, datastore, now.known.images)
    if stays:
        new = NewImage(disk.format, disk.provisioning)
    return DiskPlacement(
        name=disk.name,
        size=disk.size,
        source_datastore=disk.datastore,
        destination_datastore=datastore.name,
        source_format=disk.format,
        format=new.format,
        provisioning=new.provisioning,
        space=new.space,
        on_device=datastore.devices is not None,
        backing=new.backing,
    )


def _ref(host: HostStatus) -> HostRef:
    return HostRef(name=host.name, control=host.control)
