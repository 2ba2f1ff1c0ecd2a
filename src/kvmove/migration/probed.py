"""What was found out on purpose for a check, beyond what hosts report all the time. Pure.

What could not be found out is a finding.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from kvmove.migration.preflight_images import NO_IMAGES, Images
from kvmove.model.finding import Finding
from kvmove.model.host import HostInfo
from kvmove.model.probe import MOST_PAIRS, CertificateFacts, HereFacts, NetworkProbe, NicPair, QemuFacts
from kvmove.units import format_duration


class Clocks(NamedTuple):
    """How far the destination's clock is ahead of the source's, and how wrong that may be. Seconds."""

    ahead: float
    uncertain: float


class Probed(NamedTuple):
    """None: was not asked. What was asked and not found out is in `failed`, each a warning. `now` is the time of the
    probe, to judge certificates by."""

    source_qemu: QemuFacts | None = None
    destination_qemu: QemuFacts | None = None
    source_here: HereFacts | None = None
    destination_here: HereFacts | None = None
    clocks: Clocks | None = None
    network: NetworkProbe | None = None
    now: datetime | None = None
    failed: tuple[Finding, ...] = ()

    def reached(self) -> frozenset[tuple[str, str]]:
        """Pairs of addresses, source's first, that reach each other."""
        pairs = self.network.pairs if self.network is not None else ()
        return frozenset((it.source_address, it.destination_address) for it in pairs if it.reachable)


NOT_PROBED = Probed()


class Known(NamedTuple):
    """What a plan is made of besides the hosts' reports. `told` are findings of others, said beside ours: whoever else
    has a word on a move before it starts (its limits, say) says it there."""

    images: Images = NO_IMAGES
    probed: Probed = NOT_PROBED
    told: tuple[Finding, ...] = ()


NOTHING_KNOWN = Known()


def nic_pairs(source: HostInfo, destination: HostInfo, mtus: tuple[dict[str, int], dict[str, int]]) -> list[NicPair]:
    """Every pair of migration NICs, at most MOST_PAIRS; `mtus` of both hosts by NIC."""
    near_mtus, far_mtus = mtus
    pairs = [
        NicPair(
            near=near.name,
            far=far.name,
            source_address=_plain(near.address),
            destination_address=_plain(far.address),
            mtu=min(near_mtus.get(near.name, 0), far_mtus.get(far.name, 0)),
        )
        for near in source.nics
        for far in destination.nics
    ]
    return pairs[:MOST_PAIRS]


def common_bridges(source: HostInfo, destination: HostInfo, wanted: Collection[str]) -> tuple[str, ...]:
    """Those of `wanted` that both hosts have."""
    return tuple(name for name in dict.fromkeys(wanted) if name in source.bridges and name in destination.bridges)


def left(certificate: CertificateFacts, now: datetime) -> str:
    """How long a certificate is still valid, for people: `2 days`; empty when it is not any more."""
    seconds = (datetime.fromisoformat(certificate.expires) - now).total_seconds()
    if seconds <= 0:
        return ""
    return format_duration(seconds) if seconds < 86400 else f"{seconds / 86400:.0f} days"


def _plain(address: str) -> str:
    return address.partition("/")[0]
