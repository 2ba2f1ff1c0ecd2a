"""What a move is expected to take, before it starts."""

from kvmove.model.strict import Strict


class Forecast(Strict):
    """Seconds as a range, bytes to cross, the downtime; `converges` None: not known. `why` says what it rests on.

    `past_error` is how far earlier forecasts were off, as a share.
    """

    seconds_low: float
    seconds: float
    seconds_high: float
    bytes: int
    downtime_ms: float
    converges: bool | None
    why: str
    past_error: float | None = None
