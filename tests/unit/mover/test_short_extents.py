"""A disk that was written here and there: many short extents are read at once, and no data is read twice for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.disk.extents import Extent
from kvmove.disk.raw_file import RawFile
from kvmove.mover.bulk_copy import BufferPool, region_frames
from kvmove.mover.region_map import RegionCopy
from kvmove.units import KIB, MIB
from kvmove.wire import frames
from tests.support.mover_model import split

PAGE = 4 * KIB
LONG = (512 * KIB, 128 * KIB)


class Scattered(RawFile):
    """A page of data in each 64 KiB, and one long extent; it counts its reads."""

    reads: list[tuple[int, int]]

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        at = start
        while at < end:
            length = LONG[1] if at == LONG[0] else PAGE
            whole = max(length, 64 * KIB)
            yield Extent(at, length, True)
            if length < whole:
                yield Extent(at + length, whole - length, False)
            at += whole

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.reads.append((offset, len(buffer)))
        super().read_into(buffer, offset)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Scattered]:
    path = tmp_path / "scattered.raw"
    path.write_bytes(bytes(number % 251 + 1 for number in range(MIB // PAGE) for _ in range(PAGE)))
    with Scattered(path) as opened:
        opened.reads = []
        yield opened


def test_short_extents_are_read_at_once_and_the_long_one_between_them_once(disk: Scattered) -> None:
    pool = BufferPool(8)
    content = disk.path.read_bytes()
    expected = {at: content[at : at + length] for at, length, is_data in disk.extents(0, MIB) if is_data}
    sent = {}
    for bulk in region_frames(disk, RegionCopy(0, 0, 0, MIB, 0, untouched=True), pool, use_sendfile=False):
        for raw in split(bulk.encoded + bytes(bulk.data or b"")):
            frame = frames.decode(raw)
            sent[frame.offset] = raw[frames.HEADER_SIZE :]
        if bulk.buffer is not None:
            bulk.buffer.release()
    assert sent == expected
    assert len(disk.reads) == 3, disk.reads
    assert sum(length for offset, length in disk.reads if offset < sum(LONG) and offset + length > LONG[0]) == LONG[1]
