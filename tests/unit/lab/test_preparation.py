"""The files of a lab: the configurations are such that the programs that read them accept them."""

import json
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from kvmove.agent import config as agent_config
from kvmove.lab import folders as folders_module
from kvmove.lab.folders import WORLD, LabFolders
from kvmove.lab.host_init import read_config
from kvmove.lab.loops import LoopDevices
from kvmove.lab.preparation import host_config, prepare
from kvmove.lab.spec import SECOND, DatastoreSpec, LabSpec
from kvmove.manager.config import EtcdSettings, load_config
from kvmove.units import GIB

SPEC = LabSpec(name="files", nics=(125_000_000, 0), datastore=DatastoreSpec(kind="folder"))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabFolders:
    monkeypatch.setattr(folders_module, "VAR", tmp_path / "var")
    monkeypatch.setattr(folders_module, "RUN", tmp_path / "run")
    return LabFolders("files")


def test_the_manager_accepts_its_configuration(folders: LabFolders) -> None:
    prepare(SPEC, folders, LoopDevices())
    config = load_config(folders.host(WORLD) / "manager.toml")
    assert [(host.name, host.control) for host in config.hosts] == [
        ("h1", "10.90.0.11:7441"),
        ("h2", "10.90.0.12:7441"),
    ]
    assert config.socket == folders.manager_socket


def test_the_registry_may_be_an_etcd_beside_the_manager(folders: LabFolders) -> None:
    prepare(SPEC.model_copy(update={"registry": "etcd"}), folders, LoopDevices())
    registry = load_config(folders.host(WORLD) / "manager.toml").registry
    assert isinstance(registry, EtcdSettings) and not registry.encrypted
    services = {service.name: service for service in read_config(host_config(folders, WORLD)).services}
    assert f"--listen-client-urls={registry.endpoints[0]}" in services["etcd"].argv


def test_an_agent_accepts_its_configuration(folders: LabFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_config, "LONGEST_RUN", 200)
    prepare(SPEC, folders, LoopDevices())
    config = agent_config.load_config(folders.host("h2") / "agent.toml")
    assert config.control == "10.90.0.12:7441"
    assert [(nic.name, nic.speed) for nic in config.nics] == [("mig0", 125_000_000), ("mig1", 0)]
    assert [store.path for store in config.datastores] == [folders.datastore(), folders.datastore() / SECOND]


def test_every_party_has_its_keys(folders: LabFolders) -> None:
    prepare(SPEC, folders, LoopDevices())
    for party in ("h1", "h2", "manager", "operator"):
        assert {path.name for path in folders.pki(party).iterdir()} == {"ca.pem", "cert.pem", "key.pem"}


def test_a_bare_lab_has_neither_keys_nor_agents(folders: LabFolders) -> None:
    prepare(SPEC.model_copy(update={"bare": True}), folders, LoopDevices())
    assert not (folders.var / "pki").exists()
    assert read_config(host_config(folders, "h1")).services == []


def test_each_host_gets_its_own_disk_at_one_path(folders: LabFolders) -> None:
    prepare(SPEC, folders, LoopDevices())
    mounts = [json.loads(host_config(folders, name).read_text())["mounts"] for name in ("h1", "h2")]
    sources = [mount[0][-2] for mount in mounts]
    targets = [mount[0][-1] for mount in mounts]
    assert len(set(sources)) == 2
    assert set(targets) == {str(folders.datastore())}


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_datastore_has_the_file_system_that_was_asked_for(folders: LabFolders, kind: Literal["xfs", "ext4"]) -> None:
    datastore = DatastoreSpec(size=GIB, file_system=kind)
    prepare(SPEC.model_copy(update={"datastore": datastore}), folders, LoopDevices())
    image = folders.host("h1") / "datastore.img"
    found = subprocess.run(["blkid", "-o", "value", "-s", "TYPE", image], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == kind


def test_devices_are_in_the_configurations_of_the_hosts_that_have_them(
    folders: LabFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made(LoopDevices):
        def attach(self, image: Path, size: int) -> str:
            assert (size, image.parent.is_dir()) == (SPEC.block_size, True)
            return f"/dev/{image.parent.name}-{image.stem}"

    monkeypatch.setattr(agent_config, "LONGEST_RUN", 200)
    prepare(SPEC.model_copy(update={"block": 2, "shared": True}), folders, Made())
    config = agent_config.load_config(folders.host("h2") / "agent.toml")
    assert {store.name: store.devices for store in config.datastores} == {
        "local": (),
        "second": (),
        "shared": (),
        "block": ("/dev/h2-block-0", "/dev/h2-block-1"),
        "block-shared": ("/dev/world-block-0", "/dev/world-block-1"),
    }
