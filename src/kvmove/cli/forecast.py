"""A forecast for a person to read: before the move in two lines, after it beside what the move was."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.output import printable
from kvmove.model.forecast import Forecast
from kvmove.model.move import MoveKind, MovePlan
from kvmove.model.task import Task
from kvmove.model.vm import Power
from kvmove.units import format_duration, format_size


def render_forecast(forecast: Forecast | None, plan: MovePlan) -> Sequence[RenderableType]:
    """`Forecast  about 24 s (20-31 s), 2.1 GiB to send, pause about 110 ms`, and below it why; nothing without one."""
    if forecast is None:
        return ()
    style = "yellow" if forecast.converges is False else ""
    why = [printable(forecast.why)]
    if forecast.past_error is not None:
        why.append(f"past forecasts were off by {forecast.past_error * 100:.0f} %")
    first = Text.assemble("\n", ("Forecast  ", "bold"), (_first_line(forecast, plan), style))
    return (first, Text(f"          {'; '.join(why)}", style=style or "dim", overflow="fold"))


def _first_line(forecast: Forecast, plan: MovePlan) -> str:
    words = [f"about {round_time(forecast.seconds)} ({span(forecast.seconds_low, forecast.seconds_high)})"]
    todo = "copy" if plan.kind is MoveKind.STORAGE else "send"
    words.append(f"{format_size(forecast.bytes)} to {todo}" if forecast.bytes else f"nothing to {todo}")
    if plan.power is Power.RUNNING:
        words.append(f"pause about {forecast.downtime_ms:.0f} ms")
    return ", ".join(words)


def against_real(task: Task) -> str:
    """What was expected, and once it is known what it was; empty when nobody asked for a forecast."""
    if task.forecast is None:
        return ""
    said = f"about {round_time(task.forecast.seconds)} ({span(task.forecast.seconds_low, task.forecast.seconds_high)})"
    if task.report is None:
        return said
    real = task.report.seconds
    inside = task.forecast.seconds_low <= real <= task.forecast.seconds_high
    off = abs(task.forecast.seconds - real) / max(real, 0.001)
    said += f"; it was {round_time(real)}, off by {off * 100:.0f} %{'' if inside else ', outside of the band'}"
    if task.plan is not None and task.plan.power is Power.RUNNING:
        said += f"; pause about {task.forecast.downtime_ms:.0f} ms, it was {task.report.downtime_ms:.0f} ms"
    return said


def span(low: float, high: float) -> str:
    """A band of seconds in the unit that fits its upper end: `20-31 s`, `2-3 min`, `1.5-2.2 s`."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if high >= 2 * size:
            return _span(low / size, high / size, unit)
    return _span(low, high, "s")


def _span(low: float, high: float, unit: str) -> str:
    digits = 0 if (high >= 10 and high - low >= 1) or unit == "min" else 1
    ends = [f"{end:.{digits}f}" for end in (low, high)]
    return f"{ends[0]} {unit}" if ends[0] == ends[1] else f"{ends[0]}-{ends[1]} {unit}"


def round_time(seconds: float) -> str:
    """As exact as a forecast can be: no tenths of a second where there are many."""
    return f"{seconds:.0f} s" if 10 <= seconds < 60 else format_duration(seconds)
