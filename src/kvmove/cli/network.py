"""What reaches what between two hosts, for a person to read."""

from rich.console import Group, RenderableType
from rich.text import Text

from kvmove.cli.output import Cells, printable, table
from kvmove.cli.rows import link_speed
from kvmove.model.probe import BridgeProbe, NetworkReport, PairView

_NO_MTU = "not known"


def render_network(report: NetworkReport) -> RenderableType:
    """The pairs of migration NICs, then the bridges, then what could not be found out."""
    parts: list[RenderableType] = [Text.assemble((f"{report.source} → {report.destination}", "bold"), ""), Text()]
    if report.pairs:
        parts.append(table([_pair(pair, report) for pair in report.pairs]))
    else:
        parts.append(Text("No pair of migration NICs was tried.", style="red"))
    if report.bridges:
        parts += [Text(), table([_bridge(bridge) for bridge in report.bridges])]
    parts += [Text(f"Warning: {printable(problem)}", style="yellow") for problem in report.problems]
    return Group(*parts)


def _pair(pair: PairView, report: NetworkReport) -> Cells:
    return {
        f"on {report.source}": f"{pair.near} {pair.source_address}",
        f"on {report.destination}": f"{pair.far} {pair.destination_address}",
        "network": pair.network or "not in common",
        "speed": link_speed(pair.speed),
        "mtu": _mtu(pair),
        "round trip": f"{pair.round_trip_ms:.2f} ms" if pair.round_trip_ms is not None else "",
        "reachable": Text("yes", style="green")
        if pair.reachable
        else Text(f"no: {printable(pair.reason)}", style="red"),
    }


def _mtu(pair: PairView) -> Text:
    """The MTU, whether both ends have the same, and whether packets of that size arrive."""
    sizes = {size for size in (pair.near_mtu, pair.far_mtu) if size}
    said = " / ".join(str(size or _NO_MTU) for size in (pair.near_mtu, pair.far_mtu)) if len(sizes) > 1 else ""
    said = said or (str(sizes.pop()) if sizes else _NO_MTU)
    if pair.whole is False:
        return Text(f"{said}, but packets of {pair.mtu} are lost", style="red")
    if pair.reachable and pair.whole is None:
        return Text(f"{said}, not tried: pings are not answered")
    return Text(said, style="yellow" if " / " in said else "")


def _bridge(bridge: BridgeProbe) -> Cells:
    if bridge.connected is None:
        state = Text(f"not found out: {printable(bridge.reason)}", style="yellow")
    elif bridge.connected:
        state = Text("yes", style="green")
    else:
        why = bridge.reason or "frames sent on one do not reach the other"
        state = Text(f"no: {printable(why)}", style="red")
    return {"bridge": bridge.bridge, "one network": state}
