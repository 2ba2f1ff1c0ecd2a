"""The benchmark's pictures: the guest's writes a second over time, ours above theirs, one picture a scenario.

`python -m kvmove.lab.bench_pictures FOLDER` draws what `kvmove lab bench` left in FOLDER. It needs matplotlib, the
extra `bench`.
"""

import io
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from kvmove.lab.bench_results import SERIES_SECONDS, SideRun, read_runs
from kvmove.lab.bench_scenarios import SIDE_NAMES, Side

OURS = (Side.KVMOVE, Side.KVMOVE_PLAIN)
POINTS = 200
"""More than that many in a line cannot be told apart, and make a picture of hundreds of kilobytes."""

DPI, COLOURS = 80, 16

THEIRS = (Side.LIBVIRT_DEFAULT, Side.LIBVIRT_SYNC, Side.QEMU)


def draw(runs: Sequence[SideRun], folder: Path) -> dict[str, Path]:
    """Write `writes-SCENARIO.png` for each scenario whose guest writes, by scenario; of each side its first run.

    :raise OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for scenario in dict.fromkeys(run.scenario for run in runs):
        first = {Side(run.side): run for run in reversed(runs) if run.scenario == scenario and any(run.series)}
        if first:
            drawn[scenario] = folder / f"writes-{scenario}.png"
            _draw(scenario, first, drawn[scenario])
    return drawn


def coarser(series: Sequence[float]) -> tuple[float, list[float]]:
    """The series with at most POINTS figures, each the mean of those it stands for, and how many seconds one spans."""
    together = -(-len(series) // POINTS)
    means = [statistics.fmean(series[at : at + together]) for at in range(0, len(series), together)]
    return together * SERIES_SECONDS, means


def _draw(scenario: str, runs: dict[Side, SideRun], path: Path) -> None:
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for panel, sides in zip(panels, (OURS, THEIRS), strict=True):
        for side in sides:
            if run := runs.get(side):
                step, series = coarser(run.series)
                times = [number * step for number in range(len(series))]
                [line] = panel.plot(times, series, label=SIDE_NAMES[side], linewidth=1.2)
                panel.axvline(run.result.seconds, color=line.get_color(), linestyle=":", linewidth=1)
        panel.set_ylabel("guest writes/s")
        panel.set_ylim(bottom=0)
        if panel.lines:
            panel.legend(loc="upper right")
    panels[0].set_title(f"{scenario}: dotted lines are where each move ended or was given up")
    panels[1].set_xlabel("seconds since the request")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    Image.open(drawn).quantize(COLOURS).save(path, optimize=True)


def main(folder: Path) -> None:
    """Draw into `folder` what is in its `bench-runs.json`.

    :raise OSError: it is not there.
    """
    for path in draw(read_runs(folder), folder).values():
        sys.stdout.write(f"the guest's writes over time: {path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
