"""Trying a folder's storage: bounded, and nothing is left of it."""

import os
from pathlib import Path

import pytest

from kvmove.disk import speed
from kvmove.units import MIB


def test_a_rate_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    assert speed.write_rate(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_written_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = os.pwrite

    def counting(file: int, data: bytes, offset: int) -> int:
        written.append(len(data))
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", counting)
    monkeypatch.setattr(speed, "PROBE_SECONDS", 3600.0)
    speed.write_rate(tmp_path)
    assert sum(written) == speed.PROBE_MOST == 64 * MIB


def test_nothing_is_tried_where_little_space_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LEAST_FREE", 2**60)
    with pytest.raises(OSError, match="too little space"):
        speed.write_rate(tmp_path)


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        speed.write_rate(tmp_path / "gone")


def test_two_folders_on_different_storage_share_nothing(tmp_path: Path) -> None:
    assert not speed.shares_blocks(tmp_path, Path("/dev/shm"))
