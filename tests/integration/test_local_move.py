"""A disk goes to another datastore of its host while a guest writes: by each way that real file systems offer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kvmove.disk.offload import Offload, Rung
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MoverSettings, MovingDisk
from kvmove.units import MIB
from tests.support.file_systems import cached, mounted
from tests.support.writing_guest import FakeMirror, Guest, make_source

pytestmark = pytest.mark.lab

SIZE = 48 * MIB + 12 * 1024 + 512
SPACE = 400 * MIB


@pytest.fixture(scope="module")
def file_systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with ExitStack() as undo:
        yield {
            kind: undo.enter_context(mounted(kind, tmp_path_factory.mktemp(kind), SPACE))
            for kind in ("xfs", "ext4", "tmpfs")
        }


class LocalMove:
    """A move of one disk between two folders; use as a context manager."""

    def __init__(self, source: Path, target: Path, *, direct: bool) -> None:
        self.source, self.target = source / "source.raw", target / "target.raw"
        self._undo = ExitStack()
        make_source(self.source, SIZE)
        self._undo.callback(self.source.unlink)
        disk = self._undo.enter_context(RawFile(self.source, direct=direct))
        self._undo.callback(self.target.unlink, missing_ok=True)
        self.disk = self._undo.enter_context(RawTarget.create(self.target, SIZE))
        self.move = DiskMove.within_host([MovingDisk(disk)], [Offload(disk, self.disk)], MoverSettings())
        self.mirror = FakeMirror()
        self.move.mirror(0).server = self.mirror

    def __enter__(self) -> LocalMove:
        self.move.start(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self.move.stop()
        self._undo.close()

    def copy(self) -> None:
        self.move.start_copy()
        assert self.move.wait_copied(30)

    def finish(self) -> dict[Rung, int]:
        """Both are equal; the rungs that were used."""
        assert self.move.wait_settled(30)
        self.move.sync_targets()
        assert self.source.read_bytes() == self.target.read_bytes()
        return {rung: size for rung, size in self.move.snapshot()[0][0].by_rung.items() if size}


WAYS = [
    ("xfs", "xfs", Rung.REFLINK),
    ("ext4", "ext4", Rung.KERNEL_COPY),
    ("tmpfs", "tmpfs", None),
    ("xfs", "ext4", None),
    ("ext4", "tmpfs", None),
]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize(("source", "target", "rung"), WAYS, ids=[f"{way[0]}-to-{way[1]}" for way in WAYS])
def test_a_writing_guest_loses_nothing(
    file_systems: dict[str, Path], source: str, target: str, rung: Rung | None, direct: bool
) -> None:
    with LocalMove(file_systems[source], file_systems[target], direct=direct) as local:
        with Guest(local.source, local.move) as guest:
            local.copy()
            time.sleep(0.2)
        rungs = local.finish()
        assert local.mirror.answered == guest.written
        assert local.move.snapshot()[0][0].forwarded > 0
        assert rung is None or set(rungs) == {rung}


def io_counters() -> dict[str, int]:
    """Bytes that this process has read and written: rchar and wchar by its calls, read_bytes from storage."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def test_a_reflink_reads_and_writes_no_data(file_systems: dict[str, Path]) -> None:
    with LocalMove(file_systems["xfs"], file_systems["xfs"], direct=True) as local:
        before = io_counters()
        local.copy()
        assert local.move.wait_settled(30)
        after = io_counters()
        used = {name: after[name] - before[name] for name in ("rchar", "wchar", "read_bytes")}
        assert used["rchar"] < 4096, "the counters themselves are read"
        assert used["wchar"] == 0
        assert used["read_bytes"] < 64 * 1024, "metadata at most"
        assert sum(local.finish().values()) >= 8 * 3 * MIB, "the source's stored zeroes are shared as they are"


def test_the_kernels_copy_does_not_stay_in_the_page_cache(file_systems: dict[str, Path]) -> None:
    with LocalMove(file_systems["ext4"], file_systems["ext4"], direct=True) as local:
        local.copy()
        assert local.move.wait_settled(30)
        local.move.sync_targets()
        assert cached(local.target) < MIB


def test_holes_and_stored_zeroes_stay_holes_between_file_systems(file_systems: dict[str, Path]) -> None:
    with LocalMove(file_systems["ext4"], file_systems["xfs"], direct=True) as local:
        local.copy()
        assert set(local.finish()) <= {Rung.KERNEL_COPY, Rung.READ_WRITE}
        assert local.disk.allocated() <= 8 * (2 * MIB + 12288 + 2 * 65536)
