"""The top image of a chain: the target has the images below, so what is not written there does not read as zeroes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.disk.digest import content_digest
from kvmove.disk.extents import Extent
from kvmove.disk.offload import LADDER, Offload
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.mover.bulk_copy import BufferPool, region_frames
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MoverSettings, MovingDisk
from kvmove.mover.region_map import RegionCopy
from kvmove.units import KIB, MIB
from kvmove.wire import frames
from kvmove.wire.frames import FrameKind
from tests.support.mover_model import split

SIZE = 3 * MIB
BELOW = b"below" * (SIZE // 5) + b"x" * (SIZE % 5)
DATA, HOLE, STORED_ZEROES = (MIB, 300 * KIB), (MIB + 300 * KIB, 4 * KIB), (2 * MIB, 128 * KIB)


class Overlay(RawFile):
    """A file that says of itself what a qcow2 image's top would."""

    is_overlay = True

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        for (offset, length), is_data in ((DATA, True), (HOLE, False), (STORED_ZEROES, True)):
            if start <= offset < end:
                yield Extent(offset, length, is_data)


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    path = tmp_path / "top.raw"
    content = bytearray(BELOW)
    content[DATA[0] : sum(DATA)] = b"d" * DATA[1]
    for offset, length in (HOLE, STORED_ZEROES):
        content[offset : offset + length] = bytes(length)
    path.write_bytes(content)
    with Overlay(path) as disk:
        yield disk


def sent(disk: RawFile, region: int) -> Iterator[tuple[int, int, bool]]:
    """What a stream is given of a region whose target has the images below."""
    copy = RegionCopy(0, region, region * MIB, MIB, 0, untouched=MovingDisk(disk).terms().blank)
    for bulk in region_frames(disk, copy, BufferPool(8), use_sendfile=False):
        for raw in split(bulk.encoded + bytes(bulk.data or b"")):
            frame = frames.decode(raw)
            yield frame.offset, frame.length, frame.kind is FrameKind.DATA
        if bulk.buffer is not None:
            bulk.buffer.release()


def test_holes_and_stored_zeroes_are_sent_and_gaps_are_not(overlay: Overlay) -> None:
    assert list(sent(overlay, 0)) == []
    frames_of_data = [(offset, length) for offset, length, is_data in sent(overlay, 1) if is_data]
    assert sum(length for _, length in frames_of_data) == DATA[1]
    assert [frame for frame in sent(overlay, 1) if not frame[2]] == [(*HOLE, False)]
    assert list(sent(overlay, 2)) == [(*STORED_ZEROES, False)]


@pytest.mark.parametrize("ladder", [(), LADDER])
def test_a_copy_within_a_host_keeps_what_is_below_and_writes_zeroes_over_it(
    overlay: Overlay, tmp_path: Path, ladder: tuple[()]
) -> None:
    path = tmp_path / "target.raw"
    path.write_bytes(BELOW)
    with RawTarget(path) as target:
        move = DiskMove.within_host([MovingDisk(overlay)], [Offload(overlay, target, ladder)], MoverSettings())
        move.start(10)
        move.start_copy()
        assert move.wait_copied(30)
        move.stop()
    assert path.read_bytes() == overlay.path.read_bytes()


def test_an_overlay_has_no_digest_of_its_own(overlay: Overlay) -> None:
    with pytest.raises(ValueError, match="gaps"):
        content_digest(overlay)
