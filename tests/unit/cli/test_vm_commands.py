"""Defining, starting, stopping and deleting VMs from the command line."""

import io
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kvmove.disk.datastore import Datastore
from kvmove.model.host import HostStatus
from kvmove.model.vm import VmState
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

DEFINITION = """
name = "web1"
memory = "512MiB"
vcpus = 2

[[disks]]
name = "root"
datastore = "local"
size = "2GiB"

[[nics]]
name = "lan"
bridge = "br0"
mac = "52:54:00:00:00:01"
"""


def sent(manager: FakeManager) -> Any:
    return manager.asked[-1][1]


def test_a_definition_without_a_uuid_gets_a_new_one_each_time(
    tmp_path: Path, manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.answers["POST /vms"] = samples.vm(state=VmState.OFF)
    (tmp_path / "web1.toml").write_text(DEFINITION)
    uuids = set()
    for _ in range(2):
        assert kvmove("vm", "define", str(tmp_path / "web1.toml"), "--host", "h1").code == 0
        uuids.add(UUID(sent(manager)["definition"]["uuid"]))
    assert len(uuids) == 2
    assert sent(manager)["host"] == "h1"
    expected = samples.definition().model_dump(mode="json")
    assert sent(manager)["definition"] | {"uuid": expected["uuid"]} == expected


def test_a_definition_comes_from_stdin_too(
    manager: FakeManager, kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.answers["POST /vms"] = samples.vm(state=VmState.OFF)
    monkeypatch.setattr("sys.stdin", io.StringIO(f'uuid = "{samples.WEB1}"\n{DEFINITION}'))
    result = kvmove("vm", "define", "-", "--host", "h1", "-o", "name")
    assert (result.code, result.out) == (0, "web1\n")
    assert sent(manager)["definition"] == samples.definition().model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "web1"\nmemory = "lots"\n', "memory: 'lots' is not a size; write for example 512MiB or 4GiB"),
        ('name = "../x"\nmemory = "1GiB"\n', "name: String should match"),
        ('name = "web1"\nmemory = "1GiB"\ncolour = 1\n', "colour: unknown key"),
        ("name = \n", "is not valid TOML"),
    ],
)
def test_a_faulty_definition_is_told_and_nothing_is_asked(
    text: str, said: str, tmp_path: Path, manager: FakeManager, kvmove: Kvmove
) -> None:
    (tmp_path / "web1.toml").write_text(text)
    result = kvmove("vm", "define", str(tmp_path / "web1.toml"), "--host", "h1")
    assert result.code == 2
    assert said in result.err
    assert manager.asked == []


def test_a_file_that_is_not_there_is_a_matter_of_usage(tmp_path: Path, kvmove: Kvmove) -> None:
    result = kvmove("vm", "define", str(tmp_path / "none.toml"), "--host", "h1")
    assert result.code == 2
    assert "No such file" in result.err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("start", "web1"), "POST /vms/web1:start"),
        (("stop", "web1"), "POST /vms/web1:stop"),
        (("stop", "web1", "--force"), "POST /vms/web1:kill"),
    ],
)
def test_start_and_stop_show_the_vm_as_it_is_then(
    words: tuple[str, ...], key: str, manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.answers[key] = samples.vm(state=VmState.OFF)
    result = kvmove("vm", *words)
    assert result.code == 0
    assert "off" in result.out
    assert json.loads(kvmove("vm", *words, "-o", "json").out)["state"] == "off"


def test_deleting_asks_for_a_yes_where_nobody_can_be_asked(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["DELETE /vms/web1"] = None
    result = kvmove("vm", "delete", "web1")
    assert result.code == 2
    assert "add --yes" in result.err
    assert manager.asked == []
    assert kvmove("vm", "delete", "web1", "--yes") == (0, "", "web1 is deleted.\n")


def test_the_file_of_a_disk_is_shown_where_the_datastore_has_it(
    tmp_path: Path, manager: FakeManager, kvmove: Kvmove
) -> None:
    store = Datastore.create("local", tmp_path)
    file = store.create_disk(samples.WEB1, samples.vm().definition.disks[0])
    info = samples.host_info().model_copy(update={"datastores": (store.info(),)})
    manager.answers["GET /vms/web1"] = samples.vm()
    manager.answers["GET /hosts/h1"] = HostStatus(name="h1", control=info.control, reachable=True, info=info)
    assert str(file) in kvmove("vm", "show", "web1").out


@pytest.mark.parametrize(("swap", "said"), [("none", "none"), ("with-vm", "with-vm, in datastore local")])
def test_the_place_of_the_swap_file_is_shown(swap: str, said: str, manager: FakeManager, kvmove: Kvmove) -> None:
    shown = samples.vm(definition=samples.definition().model_copy(update={"swap": swap}))
    manager.answers["GET /vms/web1"] = shown
    manager.answers["GET /hosts/h1"] = HostStatus(name="h1", control="10.0.0.1:7441", reachable=False)
    assert [line.split(None, 2)[2] for line in kvmove("vm", "show", "web1").out.splitlines() if "Swap" in line] == [
        said
    ]


def test_a_vm_is_shown_while_its_host_has_told_nothing(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /vms/web1"] = samples.vm(state=VmState.UNKNOWN)
    manager.answers["GET /hosts/h1"] = HostStatus(name="h1", control="10.0.0.1:7441", reachable=False)
    assert "unknown" in kvmove("vm", "show", "web1").out
