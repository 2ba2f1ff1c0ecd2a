"""How an offload falls down its ladder: fakes stand for the system calls, the files are real."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmove.disk.errors import DiskError
from kvmove.disk.offload import Offload, RangeCopy, Rung, kernel_copy
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.units import MIB

SIZE = 3 * MIB + 512
REFUSALS = [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS]


class Refusing:
    """A way to move a range that fails with one error."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tried: list[tuple[int, int]] = []

    def __call__(self, source: int, target: int, offset: int, length: int) -> None:
        self.tried.append((offset, length))
        raise OSError(self.number, os.strerror(self.number))


def by_hand(source: int, target: int, offset: int, length: int) -> None:
    """Stands for a system call that moves a range."""
    os.pwrite(target, os.pread(source, length, offset), offset)


Make = Callable[..., Offload]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes an offload of random bytes to a hole with these ways before reading and writing."""
    path = tmp_path / "source.raw"
    path.write_bytes(os.urandom(SIZE))
    with RawFile(path) as source, RawTarget.create(tmp_path / "target.raw", SIZE) as target:

        def offload(*ladder: tuple[Rung, RangeCopy]) -> Offload:
            return Offload(source, target, ladder)

        yield offload


def is_equal(offload: Offload, offset: int, length: int) -> bool:
    source, target = offload.source.path.read_bytes(), offload.target.path.read_bytes()
    return source[offset : offset + length] == target[offset : offset + length]


@pytest.mark.parametrize("number", REFUSALS)
def test_a_rung_that_the_files_refuse_is_tried_once(make: Make, number: int) -> None:
    refusing = Refusing(number)
    offload = make((Rung.REFLINK, refusing), (Rung.KERNEL_COPY, by_hand))
    assert offload.move(0, MIB, untouched=True) is Rung.KERNEL_COPY
    assert offload.move(MIB, MIB, untouched=True) is Rung.KERNEL_COPY
    assert refusing.tried == [(0, MIB)]
    assert offload.moved == {Rung.REFLINK: 0, Rung.KERNEL_COPY: 2 * MIB, Rung.READ_WRITE: 0}
    assert is_equal(offload, 0, 2 * MIB)


def test_without_any_rung_the_data_is_read_and_written(make: Make) -> None:
    offload = make((Rung.REFLINK, Refusing(errno.EOPNOTSUPP)), (Rung.KERNEL_COPY, Refusing(errno.EXDEV)))
    assert offload.move(0, SIZE, untouched=True) is Rung.READ_WRITE
    assert offload.moved[Rung.READ_WRITE] == SIZE
    assert is_equal(offload, 0, SIZE)


def test_a_range_with_a_part_of_a_block_falls_down_alone(make: Make) -> None:
    refusing = Refusing(errno.EINVAL)
    offload = make((Rung.REFLINK, refusing))
    offload.move(3 * MIB, 512, untouched=True)
    offload.move(0, MIB, untouched=True)
    offload.move(MIB, MIB, untouched=True)
    assert refusing.tried == [(3 * MIB, 512), (0, MIB)], "the tail does not count, a whole block does"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_is_no_refusal_and_names_the_range(make: Make, number: int) -> None:
    offload = make((Rung.REFLINK, Refusing(number)), (Rung.KERNEL_COPY, by_hand))
    with pytest.raises(DiskError, match=rf"target\.raw: cannot take {MIB} bytes at {MIB} of .*source\.raw") as caught:
        offload.move(MIB, MIB, untouched=True)
    assert caught.value.number == number
    assert not any(offload.moved.values())


def test_stored_zeroes_become_holes_when_they_are_read(make: Make) -> None:
    offload = make()
    path = offload.source.path
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(bytes(MIB))
    offload.move(0, SIZE, untouched=True)
    assert is_equal(offload, 0, SIZE)
    assert offload.target.path.stat().st_blocks * 512 <= 2 * MIB + 64 * 1024


def test_zeroes_are_written_over_what_a_failed_try_left(make: Make) -> None:
    def leaves_something(source: int, target: int, offset: int, length: int) -> None:
        os.pwrite(target, b"left" * 1024, offset)
        raise OSError(errno.EINVAL, "Invalid argument")

    offload = make((Rung.KERNEL_COPY, leaves_something))
    with offload.source.path.open("r+b") as file:
        file.write(bytes(MIB))
    offload.move(0, MIB, untouched=True)
    assert is_equal(offload, 0, MIB)


def test_zeroes_are_written_over_what_was_there(make: Make) -> None:
    offload = make()
    offload.target.write_at(0, memoryview(b"old" * 1000))
    with offload.source.path.open("r+b") as file:
        file.write(bytes(MIB))
    offload.move(0, MIB, untouched=False)
    assert is_equal(offload, 0, MIB)


def test_a_source_that_became_shorter_is_an_error_on_every_rung(make: Make) -> None:
    offload = make((Rung.KERNEL_COPY, kernel_copy))
    os.truncate(offload.source.path, 2 * MIB)
    with pytest.raises(DiskError, match=f"the file ends at {2 * MIB}"):
        offload.move(2 * MIB, MIB, untouched=True)
