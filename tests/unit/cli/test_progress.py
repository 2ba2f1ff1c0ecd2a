"""A move as it is shown: never backwards, nothing invented, and readable at any width."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kvmove.cli.display import LineDisplay
from kvmove.cli.interrupt import Stance, pressed, timed_out
from kvmove.cli.options import Options
from kvmove.cli.output import Printer
from kvmove.cli.progress import MoveView, plain_line, summary
from kvmove.cli.shown import LINE, Shown, follow
from kvmove.model.move import DiskProgress, MemoryProgress, MoveProgress, NicProgress, NicState, Phase
from kvmove.units import GIB, MIB
from tests.support import samples

PROGRESS = st.builds(
    MoveProgress,
    phase=st.sampled_from(Phase),
    percent=st.floats(-10, 200),
    disks=st.lists(
        st.builds(
            DiskProgress,
            name=st.sampled_from(["root", "data"]),
            total=st.integers(0, 100),
            copied=st.integers(0, 120),
        ),
        max_size=2,
        unique_by=lambda disk: disk.name,
    ).map(tuple),
    memory=st.builds(
        MemoryProgress, total=st.integers(0, 100), transferred=st.integers(0, 300), remaining=st.integers(0, 120)
    ),
)


@given(st.lists(PROGRESS, min_size=2))
def test_nothing_that_is_shown_ever_runs_backwards(steps: list[MoveProgress]) -> None:
    shown = Shown()
    for progress in steps:
        after = follow(shown, progress)
        assert after.percent >= shown.percent
        assert after.place >= shown.place
        assert after.memory >= shown.memory
        assert all(after.disks[name] >= share for name, share in shown.disks.items())
        assert 0 <= after.percent <= 100
        assert 0 <= after.place <= len(LINE)
        assert all(0 <= share <= 1 for share in [after.memory, *after.disks.values()])
        shown = after


def drawn(view: MoveView, width: int = 100) -> str:
    console = Console(width=width, height=40)
    with console.capture() as shown:
        console.print(view)
    return shown.get()


def view_of(*states: MoveProgress) -> MoveView:
    view = MoveView(samples.task(progress=None))
    for progress in states:
        view.update(samples.task(progress=progress))
    return view


def test_the_picture_has_phases_bars_nics_and_the_whole() -> None:
    text = drawn(view_of(samples.progress(Phase.COPYING_MEMORY, 61.0)))
    assert "web1  h1 → h2" in text
    assert "✓ copying disks   ● copying memory   ○ switching over" in text
    assert "disk root" in text
    assert "mig0  117.0 MiB/s" in text
    assert text.index("AVERAGE") < text.index("STATE")
    assert "12.4 s  61.0 %  117.0 MiB/s  1.5 GiB of 2.5 GiB  about 9.0 s left" in text


def test_a_nic_that_is_left_says_why() -> None:
    left = NicProgress(nic="mig1", sent=GIB, average=90 * MIB, state=NicState.LEFT, reason="1.2 s without an answer")
    progress = samples.progress(Phase.COPYING_DISKS, 50.0).model_copy(update={"nics": (left,)})
    text = drawn(view_of(progress))
    assert "mig1  0 B/s  90.0 MiB/s  1.0 GiB        0  left: 1.2 s without an answer" in text
    assert "mig1 left: 1.2 s without an answer" in plain_line(progress, 50.0)


def test_a_disk_that_is_not_in_its_normal_mode_says_why() -> None:
    disk = DiskProgress(
        name="root", total=GIB, copied=MIB, mode="sync", reason="the guest writes faster", recopied=4 * MIB
    )
    text = drawn(view_of(samples.progress().model_copy(update={"disks": (disk,)})))
    assert "disk root: sync: the guest writes faster, 4.0 MiB copied again" in text


def test_the_memory_says_its_round_and_how_the_guest_is_slowed() -> None:
    memory = MemoryProgress(
        total=512 * MIB, transferred=600 * MIB, remaining=32 * MIB, rounds=3, dirty_rate=5 * MIB, throttle=20
    )
    text = drawn(view_of(samples.progress().model_copy(update={"memory": memory})))
    assert "memory: round 3, 32.0 MiB left, guest writes 5.0 MiB/s, guest slowed by 20 %" in text
    assert "94 %" in text


@pytest.mark.parametrize("phase", [Phase.ABORTING, Phase.IN_DOUBT, Phase.LOST])
def test_a_move_that_goes_wrong_says_so_and_keeps_its_place(phase: Phase) -> None:
    text = drawn(view_of(samples.progress(Phase.COPYING_MEMORY), samples.progress(phase)))
    assert "✗" in text
    assert "● copying memory" in text


def test_what_is_not_known_is_left_out() -> None:
    bare = MoveProgress(phase=Phase.PREPARING)
    assert summary(bare, 0.0) == "0.0 %"
    assert plain_line(bare, 0.0) == "0 ms  preparing  0.0 %"


def test_a_move_that_is_over_has_no_rate_and_no_time_left() -> None:
    assert summary(samples.progress(Phase.COMPLETED, 100.0), 100.0) == "100.0 %  2.5 GiB of 2.5 GiB"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_fits_any_width(width: int) -> None:
    text = drawn(view_of(samples.progress()), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text or width < 60


def test_a_message_from_elsewhere_cannot_steer_the_terminal() -> None:
    text = drawn(view_of(samples.progress().model_copy(update={"message": "\x1b[2J gone"})))
    assert "\x1b" not in text


def lines_of(states: Iterable[tuple[float, Phase]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a pipe gets of states that come at the given seconds."""
    now = [0.0]
    display = LineDisplay(Printer(Options()), clock=lambda: now[0])
    for second, phase in states:
        now[0] = second
        display.show(samples.task(progress=samples.progress(phase)))
    return [line.split("  ")[1] for line in capsys.readouterr().err.splitlines()]


def test_a_pipe_gets_a_line_a_second_and_one_for_each_phase(capsys: pytest.CaptureFixture[str]) -> None:
    states = [
        (0.0, Phase.COPYING_DISKS),
        (0.2, Phase.COPYING_DISKS),
        (0.9, Phase.COPYING_DISKS),
        (1.1, Phase.COPYING_DISKS),
        (1.2, Phase.COPYING_MEMORY),
        (1.3, Phase.COPYING_MEMORY),
    ]
    assert lines_of(states, capsys) == ["copying disks", "copying disks", "copying memory"]


def test_one_ctrl_c_never_changes_the_move() -> None:
    assert timed_out(pressed(Stance.WAITING)) is Stance.DETACHED
    assert pressed(pressed(Stance.WAITING)) is Stance.CANCELLING
    assert timed_out(Stance.CANCELLING) is Stance.CANCELLING
    assert timed_out(Stance.WAITING) is Stance.WAITING
    assert pressed(Stance.CANCELLING) is Stance.DETACHED
