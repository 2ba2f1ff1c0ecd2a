"""What a move waited for most, from where its time went: a name, a share, and one sentence with figures. Pure.

Only the time in which a stream had something to do counts. The largest part of it says where to look:

    the largest part       and                                                    then it was
    the work               -                                                      the source's processor
    waiting for the cap    the copy held itself back for half of it               the limit for the guest's writes
                           else                                                   the operator's cap
    waiting for reads      the readers kept the processor busy, or compressed     the source's processor
                           else                                                   the source disk
    waiting to send        the destination's threads wrote for half of it         its disk
                           they neither wrote nor waited for half of it           its processor
                           more guest writes than bulk data were sent             the guest's writes
                           our buffers were full for most of it and the NICs
                           carried less than they could                           the round trip
                           else                                                   the network

Within a host workers read, write, or let the kernel copy: the largest part names the source disk, the destination disk,
or the storage. A move of memory alone tells only whether the network, or the cap, was full.

Deliberately not here: measuring. Limits: a guest's writes and the bulk share the streams, and are not told apart there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvmove.model.time_spent import Bottleneck, DestinationTime, Limit, StreamTime, WhereTimeWent
from kvmove.units import format_duration, format_rate, format_size

LEAST_SECONDS = 0.2
"""Below so much time with something to do nothing is said."""

HALF = 0.5

FULL = 0.8
"""Of what NICs or a cap allow: from there on they are full."""

LONG_ROUND_TRIP_MS = 5.0
"""Below that it is no reason for anything."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the move was allowed: speeds of the NICs and its cap in bytes/s (0: not known, none), and for how long it
    held itself back for the guest's sake."""

    speeds: Mapping[str, int]
    cap: int = 0
    slowed_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of all streams together. Seconds, bytes; `span` is how long the busiest of them had something to do."""

    active: float
    span: float
    working: float
    reading: float
    sending: float
    capped: float
    buffer_limited: float
    round_trip_ms: float
    sent: int

    @property
    def rate(self) -> float:
        return self.sent / self.span


def find_bottleneck(spent: WhereTimeWent, terms: Terms) -> Bottleneck | None:
    """That of the disks' copy, or of the memory's where no disk was copied. None: too little was done to tell, or
    nothing of it says what was waited for."""
    sums = _sums(spent.streams)
    if sums.active < LEAST_SECONDS:
        return memory_bottleneck(spent, terms)
    if all(not stream.nic for stream in spent.streams):
        return _within_host(spent, sums, terms)
    parts = {"working": sums.working, "reading": sums.reading, "sending": sums.sending, "capped": sums.capped}
    largest = max(parts, key=lambda name: parts[name])
    if largest == "working":
        return _processor(sums.working / sums.active, sums, "sending and encrypting")
    if largest == "capped":
        return _capped(sums, terms)
    if largest == "reading":
        return _reading(spent, sums)
    return _sending(spent, sums, terms)


def _sums(streams: tuple[StreamTime, ...]) -> _Sums:
    return _Sums(
        active=sum(it.active for it in streams),
        span=max((it.active for it in streams), default=0.0),
        working=sum(it.working for it in streams),
        reading=sum(it.reader_wait for it in streams),
        sending=sum(it.send_wait for it in streams),
        capped=sum(it.cap_wait for it in streams),
        buffer_limited=sum(it.buffer_limited for it in streams),
        round_trip_ms=max((it.round_trip_ms for it in streams), default=0.0),
        sent=sum(it.sent for it in streams),
    )


def _said(limit: Limit, share: float, sentence: str) -> Bottleneck:
    return Bottleneck(limit=limit, share=round(min(max(share, 0.0), 1.0), 3), sentence=sentence)


def _percent(share: float) -> str:
    return f"{min(max(share, 0.0), 1.0) * 100:.0f} %"


def _processor(share: float, sums: _Sums, what: str) -> Bottleneck:
    return _said(
        Limit.SOURCE_PROCESSOR,
        share,
        f"The source's processor was the limit: {what} took {_percent(share)} of the streams' time, "
        f"at {format_rate(sums.rate)}.",
    )


def _capped(sums: _Sums, terms: Terms) -> Bottleneck:
    share = sums.capped / sums.active
    waited = f"{_percent(share)} of the time the copy waited for it"
    if terms.slowed_seconds > HALF * sums.span * share:
        sentence = f"The limit on how long guest writes are held was the limit: {waited}, at {format_rate(sums.rate)}."
        return _said(Limit.WRITE_LATENCY, share, sentence)
    cap = f"of {format_rate(terms.cap)}" if terms.cap else "that was set for a time"
    return _said(Limit.CAP, share, f"The cap {cap} was the limit: {waited}, at {format_rate(sums.rate)}.")


def _reading(spent: WhereTimeWent, sums: _Sums) -> Bottleneck:
    share = sums.reading / sums.active
    seconds = sum(disk.read_seconds for disk in spent.disks)
    packing = sum(disk.compress_seconds for disk in spent.disks)
    busy = sum(disk.read_processor for disk in spent.disks) + packing
    if busy > HALF * (seconds + packing):
        return _processor(share, sums, "compressing" if packing > HALF * busy else "reading from memory")
    slowest = max(spent.disks, key=lambda disk: disk.read_seconds)
    amount = f"{format_size(slowest.read_bytes)} of disk {slowest.name} took {format_duration(slowest.read_seconds)}"
    return _said(
        Limit.SOURCE_DISK,
        share,
        f"The source disk was the limit: {_percent(share)} of the time the streams waited for it; reading {amount}.",
    )


def _sending(spent: WhereTimeWent, sums: _Sums, terms: Terms) -> Bottleneck:
    share = sums.sending / sums.active
    there = spent.destination or DestinationTime()
    at = f"at {format_rate(sums.rate)}"
    if there.write_seconds > HALF * sums.active:
        wrote = _percent(there.write_seconds / sums.active)
        sentence = f"The destination disk was the limit: {wrote} of the time it was being written to, {at}."
        return _said(Limit.DESTINATION_DISK, there.write_seconds / sums.active, sentence)
    if there.work_seconds > HALF * sums.active:
        worked = there.work_seconds / sums.active
        sentence = f"The destination's processor was the limit: taking data in kept it {_percent(worked)} busy, {at}."
        return _said(Limit.DESTINATION_PROCESSOR, worked, sentence)
    if spent.write_bytes > spent.bulk_bytes:
        sent = f"{format_size(spent.write_bytes)} of its writes went beside {format_size(spent.bulk_bytes)} of the copy"
        sentence = f"The guest's own writes were the limit: {sent}, {at}, all that the network took."
        return _said(Limit.GUEST_WRITES, share, sentence)
    return _network(spent, sums, terms, share)


def _network(spent: WhereTimeWent, sums: _Sums, terms: Terms, share: float) -> Bottleneck:
    used = sorted({stream.nic for stream in spent.streams if stream.sent})
    speed = sum(terms.speeds.get(nic, 0) for nic in used)
    is_full = not speed or sums.rate >= FULL * speed
    waited = f"{_percent(share)} of the time the streams waited for"
    of_speed = "" if not speed else f" of {format_rate(speed)}"
    carried = f"{len(used)} NIC{'s' if len(used) != 1 else ''} carried {format_rate(sums.rate)}{of_speed}"
    is_long = sums.round_trip_ms >= LONG_ROUND_TRIP_MS and sums.buffer_limited > HALF * sums.sending
    if is_long and not is_full:
        trip = f"the round trip of {sums.round_trip_ms:.0f} ms"
        return _said(
            Limit.ROUND_TRIP, share, f"The round trip was the limit: {carried}; {waited} answers, after {trip}."
        )
    them = "them" if len(used) != 1 else "it"
    return _said(
        Limit.NETWORK, share, f"The network was the limit: {carried}, {waited} {them}{_disk_room(spent, sums)}."
    )


def _disk_room(spent: WhereTimeWent, sums: _Sums) -> str:
    """How much faster the source disks could have been read, where that is worth a word."""
    seconds, size = sum(disk.read_seconds for disk in spent.disks), sum(disk.read_bytes for disk in spent.disks)
    if seconds <= 0 or not size:
        return ""
    times = sums.span / seconds
    return f"; the source disk could have been read {times:.1f} times as fast" if times >= 1.5 else ""


def _within_host(spent: WhereTimeWent, sums: _Sums, terms: Terms) -> Bottleneck | None:
    parts = {
        Limit.SOURCE_DISK: sum(disk.read_seconds for disk in spent.disks),
        Limit.DESTINATION_DISK: sum(disk.write_seconds for disk in spent.disks),
        Limit.STORAGE: sum(disk.kernel_seconds for disk in spent.disks),
        Limit.CAP: sums.capped,
    }
    limit = max(parts, key=lambda it: parts[it])
    if not parts[limit]:
        return None
    if limit is Limit.CAP:
        return _capped(_with_sent(sums, spent), terms)
    share = parts[limit] / sums.active
    what = {
        Limit.SOURCE_DISK: "The source disk was the limit: reading it",
        Limit.DESTINATION_DISK: "The destination disk was the limit: writing to it",
        Limit.STORAGE: "The storage was the limit: copying within it",
    }
    copied = format_size(spent.bulk_bytes + spent.write_bytes)
    return _said(limit, share, f"{what[limit]} took {_percent(share)} of the time, for {copied}.")


def _with_sent(sums: _Sums, spent: WhereTimeWent) -> _Sums:
    """Within a host no stream sends: what was copied counts."""
    sent = spent.bulk_bytes + spent.write_bytes
    return _Sums(
        sums.active, sums.span, sums.working, sums.reading, sums.sending, sums.capped, sums.buffer_limited,
        sums.round_trip_ms, sent,
    )  # fmt: skip


def memory_bottleneck(spent: WhereTimeWent, terms: Terms) -> Bottleneck | None:
    """That of the memory's copy alone, as far as the network or the cap was full; else None."""
    if spent.memory_seconds < LEAST_SECONDS:
        return None
    rate, speed = spent.memory_bytes / spent.memory_seconds, sum(terms.speeds.values())
    said = f"memory went at {format_rate(rate)} of"
    if terms.cap and rate >= FULL * terms.cap:
        cap = format_rate(terms.cap)
        return _said(Limit.CAP, rate / terms.cap, f"The cap of {cap} was the limit: {said} it.")
    if speed and rate >= FULL * speed:
        return _said(Limit.NETWORK, rate / speed, f"The network was the limit: {said} {format_rate(speed)}.")
    return None
