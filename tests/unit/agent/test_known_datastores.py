from pathlib import Path

import pytest

from kvmove.agent.config import DatastoreConfig
from kvmove.agent.known_datastores import open_datastores
from kvmove.disk.datastore import Datastore
from kvmove.errors import NotFound


def test_a_datastore_that_is_away_is_known_by_its_identity_and_fails_until_it_is_back(tmp_path: Path) -> None:
    place, away, state = tmp_path / "store", tmp_path / "away", tmp_path / "state"
    place.mkdir()
    identity = Datastore.create("disks", place).id
    configured = [DatastoreConfig(name="disks", path=place)]
    assert open_datastores(configured, state)["disks"].id == identity
    place.rename(away)
    store = open_datastores(configured, state)["disks"]
    assert store.id == identity
    with pytest.raises(NotFound):
        store.vms()
    place.mkdir()
    Datastore.create("disks", place)
    with pytest.raises(NotFound, match="is now datastore"):
        store.vms()
    (place / ".kvmove-datastore").unlink()
    place.rmdir()
    away.rename(place)
    assert store.vms() == []


def test_a_datastore_that_never_was_there_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_datastores([DatastoreConfig(name="disks", path=tmp_path / "store")], tmp_path / "state")
