"""The benchmark's pictures: the guest's writes a second over time, ours above theirs, one picture a scenario.

`python -m kvmove.lab.bench_pictures FOLDER` draws what `kvmove lab bench` left in FOLDER. It needs matplotlib, the
extra `bench`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from kvmove.lab.bench_results import SERIES_SECONDS, SideRun
from kvmove.lab.bench_scenarios import Side

OURS = (Side.KVMOVE, Side.KVMOVE_PLAIN)
NAMES = {
    Side.KVMOVE: "kvmove, encrypted",
    Side.KVMOVE_PLAIN: "kvmove",
    Side.LIBVIRT_DEFAULT: "libvirt, default",
    Side.LIBVIRT_SYNC: "libvirt, synchronous writes",
    Side.QEMU: "plain QEMU",
}


def draw(runs: Sequence[SideRun], folder: Path) -> list[Path]:
    """Write `writes-SCENARIO.png` for each scenario whose guest writes; the first run of each side is drawn.

    :raise OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for scenario in dict.fromkeys(run.scenario for run in runs):
        first = {Side(run.side): run for run in reversed(runs) if run.scenario == scenario and any(run.series)}
        if first:
            path = folder / f"writes-{scenario}.png"
            _draw(scenario, first, path)
            drawn.append(path)
    return drawn


def _draw(scenario: str, runs: dict[Side, SideRun], path: Path) -> None:
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for panel, sides in zip(panels, (OURS, [side for side in NAMES if side not in OURS]), strict=True):
        for side in sides:
            if run := runs.get(side):
                times = [number * SERIES_SECONDS for number in range(len(run.series))]
                [line] = panel.plot(times, run.series, label=NAMES[side], linewidth=1.2)
                panel.axvline(run.result.seconds, color=line.get_color(), linestyle=":", linewidth=1)
        panel.set_ylabel("guest writes/s")
        panel.set_ylim(bottom=0)
        if panel.lines:
            panel.legend(loc="upper right")
    panels[0].set_title(f"{scenario}: dotted lines are where each move ended or was given up")
    panels[1].set_xlabel("seconds since the request")
    figure.savefig(path, dpi=110)


def main(folder: Path) -> None:
    """Draw into `folder` what is in its `bench-runs.json`.

    :raise OSError: it is not there.
    """
    runs = [SideRun.model_validate(run) for run in json.loads((folder / "bench-runs.json").read_text())]
    for path in draw(runs, folder):
        sys.stdout.write(f"the guest's writes over time: {path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
