"""A forecast as a person reads it: a band, what it rests on, and afterwards what it was."""

import pytest
from rich.console import Console

from kvmove.cli.forecast import against_real, render_forecast, span
from kvmove.model.forecast import Forecast
from kvmove.model.move import HostRef, MovePlan
from kvmove.model.task import TaskState
from kvmove.model.vm import Power
from kvmove.units import GIB
from tests.support import samples

SAID = Forecast(
    seconds_low=20, seconds=24, seconds_high=31, bytes=2 * GIB, downtime_ms=110, converges=True,
    why="it will converge: the guest changes 12.0 MiB/s of memory, the wire carries 117.0 MiB/s", past_error=0.09,
)  # fmt: skip


def shown(forecast: Forecast | None, plan: MovePlan) -> str:
    console = Console(width=200, record=True)
    with console.capture() as capture:
        for part in render_forecast(forecast, plan):
            console.print(part)
    return capture.get()


def test_two_lines_say_what_and_why() -> None:
    text = shown(SAID, samples.plan())
    assert "Forecast  about 24 s (20-31 s), 2.0 GiB to send, pause about 110 ms" in text
    assert "it will converge: the guest changes 12.0 MiB/s of memory, the wire carries 117.0 MiB/s" in text
    assert "past forecasts were off by 9 %" in text


def test_nothing_is_shown_of_a_forecast_that_nobody_made() -> None:
    assert shown(None, samples.plan()) == ""


def test_a_vm_that_does_not_run_has_no_pause_and_a_storage_move_sends_nothing() -> None:
    off = samples.plan().model_copy(update={"power": Power.OFF})
    assert "pause" not in shown(SAID, off)
    storage = samples.plan().model_copy(update={"destination": HostRef(name="h1", control="x:1")})
    assert "2.0 GiB to copy" in shown(SAID, storage)
    assert "nothing to copy" in shown(SAID.model_copy(update={"bytes": 0}), storage)


def test_after_the_move_stands_what_it_was() -> None:
    assert against_real(samples.task()) == ""
    running = samples.task(forecast=SAID)
    assert against_real(running) == "about 24 s (20-31 s)"
    done = samples.task(TaskState.SUCCEEDED, forecast=SAID, report=samples.report())
    assert against_real(done) == (
        "about 24 s (20-31 s); it was 24 s, off by 1 %; pause about 110 ms, it was 85 ms"
    )  # fmt: skip
    late = samples.report().model_copy(update={"seconds": 48.0})
    assert "it was 48 s, off by 50 %, outside of the band" in against_real(done.model_copy(update={"report": late}))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (20.3, 31.2, "20-31 s"), (1.52, 2.18, "1.5-2.2 s"), (0.04, 0.31, "0.0-0.3 s"), (2.0, 2.01, "2.0 s"),
        (118, 190, "2-3 min"), (4000, 9000, "1.1-2.5 h"), (10.1, 10.2, "10.1-10.2 s"), (0, 0, "0.0 s"),
    ],
)  # fmt: skip
def test_a_band_is_told_in_the_unit_that_fits_it(low: float, high: float, text: str) -> None:
    assert span(low, high) == text
