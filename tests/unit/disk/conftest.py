"""What tests of datastores share."""

from pathlib import Path

import pytest

from kvmove.disk.datastore import Datastore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def store(path: Path) -> Datastore:
    return Datastore.create("local", path)
