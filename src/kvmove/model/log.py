"""A line of a move's log, wherever it was written."""

from kvmove.model.strict import Strict


class LogLine(Strict):
    """`time` is RFC 3339 in UTC by the clock of `place`, a host or `manager`; `level` is INFO, WARNING or ERROR."""

    time: str
    place: str
    level: str
    text: str
