"""The terms of a move: how much network it may take, what it may cost the guest, and when it switches over.

`MoveTerms` is part of what is asked for and of the plan; `TermsChange` is what may be changed while the move runs.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from kvmove.model.strict import Strict
from kvmove.units import KIB, format_rate, parse_rate

NO_CAP = "none"
AUTO = "auto"
MANUAL = "manual"

LEAST_BANDWIDTH = 64 * KIB
"""Bytes/s: below that a move is as good as paused."""

MOST_SLOWDOWN = 99
"""Percent: QEMU leaves a vCPU one hundredth of its time at least."""


def _rate(value: object) -> object:
    if not isinstance(value, str):
        return value
    return 0 if value == NO_CAP else parse_rate(value)


def _enough(rate: int) -> int:
    if 0 < rate < LEAST_BANDWIDTH:
        raise ValueError(f"a bandwidth is at least {format_rate(LEAST_BANDWIDTH)}, or {NO_CAP}")
    return rate


Bandwidth = Annotated[int, BeforeValidator(_rate), Field(ge=0), AfterValidator(_enough)]
"""Bytes/s; in JSON also as text, `5Gbit` or `200MiB`. 0, or `none`: no cap."""

Downtime = Annotated[int, Field(ge=10, le=60_000)]
"""Milliseconds."""


def _when(value: str) -> str:
    if value in (AUTO, MANUAL):
        return value
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"a switchover is {AUTO}, {MANUAL}, or a time (RFC 3339), not {value}") from error
    if at.tzinfo is None:
        raise ValueError(f"the time {value} does not say its zone; write for example {value}+00:00")
    return at.isoformat()


Switchover = Annotated[str, AfterValidator(_when)]
"""`auto`: as soon as it can; `manual`: at the operator's word; else not before that time (RFC 3339)."""


class Policy(StrEnum):
    """What gives way when the guest changes its memory faster than it can be sent; see `memory.convergence`."""

    MINIMAL_DOWNTIME = "minimal-downtime"
    BALANCED = "balanced"
    SUSPEND_IF_NEEDED = "suspend-if-needed"


class Compress(StrEnum):
    """Whether the disks' bulk data is compressed for the network; `auto`: where that is measured to help."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class MoveTerms(Strict):
    """`bandwidth` caps disks and memory together, over all NICs. The copy slows itself to keep the 99th percentile of
    how long the guest's mirrored writes are held below `max_write_latency_ms`; None lets it run. `max_slowdown` is the
    share of time (percent) that vCPUs may be held back."""

    switchover: Switchover = AUTO
    bandwidth: Bandwidth = 0
    max_write_latency_ms: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_slowdown: Annotated[int, Field(ge=0, le=MOST_SLOWDOWN)] = MOST_SLOWDOWN
    policy: Policy = Policy.BALANCED
    compress: Compress = Compress.AUTO


def terms_of(asked: BaseModel) -> dict[str, Any]:
    """The terms in a larger request, field by field."""
    return {name: getattr(asked, name) for name in MoveTerms.model_fields}


class TermsChange(Strict):
    """What is to be otherwise from now on; None leaves it."""

    bandwidth: Bandwidth | None = None
    max_downtime_ms: Downtime | None = None


class Word(Strict):
    """An operator's word on a running move, and whose it is."""

    by: Annotated[str, Field(max_length=200)] = "an operator"


class TermsOrder(Word):
    """A change of a running move's terms."""

    terms: TermsChange
