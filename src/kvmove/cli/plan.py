"""A move's plan as a person reads it before it starts."""

from rich.console import Group, RenderableType
from rich.text import Text

from kvmove.cli.findings import render_findings
from kvmove.cli.forecast import render_forecast
from kvmove.cli.output import facts, table
from kvmove.cli.rows import link_speed
from kvmove.model.move import DiskPlacement, MoveCheck, MoveKind, MovePlan
from kvmove.model.terms import AUTO, MANUAL, MOST_SLOWDOWN, Compress, Policy
from kvmove.model.vm import Power
from kvmove.units import format_rate, format_size


def render_check(checked: MoveCheck) -> RenderableType:
    """What the move would do, what it is expected to take, and what to know before."""
    forecast = render_forecast(checked.forecast, checked.plan)
    return Group(render_plan(checked.plan), *forecast, *render_findings(checked.findings), Text())


KINDS = {
    MoveKind.HOST: "host move: memory alone, the disks stay on a datastore that both hosts share",
    MoveKind.STORAGE: "storage move: disks alone, the VM stays on its host",
    MoveKind.UNIFIED: "unified move: memory and disks together",
}


def _disk(disk: DiskPlacement, to: str) -> dict[str, str]:
    way = f"{'the storage network' if disk.reached_as else 'the migration NICs'} ({disk.why})" if disk.why else ""
    return {
        "disk": disk.name,
        "size": format_size(disk.size),
        "from": disk.source_datastore,
        "to": to,
        "as": _image(disk),
        "over": way,
    }


def _image(disk: DiskPlacement) -> str:
    """What the disk is, or becomes; empty for what most are."""
    became = f"{disk.provisioning} {disk.format}"
    if disk.source_format is not disk.format:
        became = f"{disk.source_format} → {became}"
    if disk.backing:
        became += f", with {len(disk.backing)} image{'s' if len(disk.backing) > 1 else ''} below it"
    return "" if became == "thin raw" else became


def _without_empty(rows: list[dict[str, str]], columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows without those of `columns` in which nothing is said."""
    idle = {name for name in columns if not any(row[name] for row in rows)}
    return [{name: value for name, value in row.items() if name not in idle} for row in rows]


def _terms(plan: MovePlan) -> dict[str, str]:
    """What of the terms is not as it is for most moves; empty values are not shown."""
    budget = plan.max_write_latency_ms
    when = {AUTO: "", MANUAL: "at the word: kvmove task switchover"}.get(plan.switchover, f"at {plan.switchover}")
    shown = {
        "Switchover": when,
        "Bandwidth": f"{format_rate(plan.bandwidth)} at most" if plan.bandwidth else "",
        "Guest's writes": f"held {budget} ms at most, or the copy slows itself" if budget is not None else "",
    }
    if plan.compress is not Compress.AUTO and plan.disks and plan.routes and not plan.over_storage:
        shown["Disk data"] = "compressed" if plan.compress is Compress.ON else "never compressed"
    if plan.moves_memory and plan.policy is not Policy.BALANCED:
        shown["Policy"] = str(plan.policy)
    if plan.moves_memory and plan.max_slowdown < MOST_SLOWDOWN and plan.policy is not Policy.MINIMAL_DOWNTIME:
        shown["Slowdown limit"] = f"{plan.max_slowdown} %"
    return shown


def render_plan(plan: MovePlan) -> RenderableType:
    """From where to where, each disk, each pair of NICs, and how."""
    between = plan.source.name
    shown: dict[str, str | Text] = {"Move": KINDS[plan.kind]}
    if plan.power is not Power.RUNNING:
        shown["VM"] = f"{plan.power}, and stays so"
    if plan.kind is not MoveKind.STORAGE:
        between = f"{between} → {plan.destination.name}"
        shown |= {
            "Memory": format_size(plan.vm.memory) if plan.moves_memory else "",
            "Encrypted": "yes" if plan.encrypt else Text("no: the network can read memory and disks", style="red"),
            "Verified": "disks are compared at the switchover" if plan.verify else "",
            "Accepted": ", ".join(plan.accepted),
            "Downtime limit": f"{plan.max_downtime_ms} ms" if plan.power is Power.RUNNING else "",
        }
    shown |= _terms(plan)
    parts: list[RenderableType] = [Text.assemble((plan.vm.name, "bold"), f"  {between}"), facts(shown)]
    disks = [_disk(it, it.destination_datastore) for it in plan.disks] + [_disk(it, "stays") for it in plan.stays]
    if disks:
        parts += [Text(), table(_without_empty(disks, ("as", "over")))]
    routes = [
        {
            "NIC": route.nic,
            "from": route.source_address,
            "to": route.destination_address,
            "speed": link_speed(route.speed),
        }
        for route in plan.routes
    ]
    if routes:
        parts += [Text(), table(routes)]
    return Group(*parts)
