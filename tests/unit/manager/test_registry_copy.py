"""A registry goes from SQLite into a real etcd: all of it, once, and never over something else."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.cli.main import run
from kvmove.errors import Busy, InvalidInput, NotFound
from kvmove.manager.listeners import hold
from kvmove.manager.registry_copy import copy_registry
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.etcd_members import EtcdMembers, serving

OWNED, DELETED, BACK = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdMembers]:
    with serving(tmp_path_factory.mktemp("etcd"), 1, tls=False) as members:
        yield members


@pytest.fixture
def config(tmp_path: Path, etcd: EtcdMembers) -> Path:
    """A manager's configuration that names etcd, beside the SQLite registry of before."""
    (tmp_path / "state").mkdir()
    asyncio.run(fill(tmp_path))
    lines = ['listen = "127.0.0.1:7440"', f"state = {json.dumps(str(tmp_path / 'state'))}"]
    lines += [
        "[registry]",
        'engine = "etcd"',
        f"endpoints = {json.dumps(etcd.endpoints)}",
        f'prefix = "{prefix(tmp_path)}"',
    ]
    path = tmp_path / "manager.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


async def fill(tmp_path: Path) -> None:
    before = SqliteRegistry(tmp_path / "state" / "registry.db")
    await before.claim(OWNED, "h1")
    for vm in (DELETED, BACK):
        await before.release(await before.claim(vm, "h2"))
    await before.claim(BACK, "h1")
    await before.close()


def prefix(folder: Path) -> str:
    return f"/{folder.name}"


async def in_etcd(etcd: EtcdMembers, folder: Path) -> EtcdRegistry:
    return EtcdRegistry(etcd.endpoints, prefix(folder), etcd.tls, timeout=30)


async def test_owners_and_epochs_are_in_etcd_afterwards(config: Path, etcd: EtcdMembers, tmp_path: Path) -> None:
    copied = await copy_registry(config)
    assert (copied.owned, copied.deleted) == (2, 1)
    assert copied.file.exists() and not (tmp_path / "state" / "registry.db").exists()
    registry = await in_etcd(etcd, tmp_path)
    assert await registry.list() == [Ownership(vm=OWNED, owner="h1", epoch=1), Ownership(vm=BACK, owner="h1", epoch=2)]
    assert (await registry.claim(DELETED, "h2")).epoch == 2
    with pytest.raises(NotFound, match="there is no"):
        await copy_registry(config)
    await registry.close()


async def test_a_copy_that_was_cut_short_is_done_again(config: Path, etcd: EtcdMembers, tmp_path: Path) -> None:
    registry = await in_etcd(etcd, tmp_path)
    await registry.bring(BACK, Ownership(vm=BACK, owner="h1", epoch=2), 1)
    await copy_registry(config)
    assert len(await registry.list()) == 2
    await registry.close()


async def test_another_record_in_etcd_stays(config: Path, etcd: EtcdMembers, tmp_path: Path) -> None:
    registry = await in_etcd(etcd, tmp_path)
    there = await registry.claim(OWNED, "h2")
    with pytest.raises(Busy, match="another record"):
        await copy_registry(config)
    assert await registry.get(OWNED) == there
    assert (tmp_path / "state" / "registry.db").exists()
    await registry.close()


async def test_while_a_vm_moves_or_the_manager_runs_nothing_is_copied(
    config: Path, etcd: EtcdMembers, tmp_path: Path
) -> None:
    with hold(tmp_path / "state"), pytest.raises(Busy, match="another manager"):
        await copy_registry(config)
    before = SqliteRegistry(tmp_path / "state" / "registry.db")
    record = await before.claim(OWNED, "h1")
    await before.swap(record, ownership.begin(record, "m1", "h2"))
    await before.close()
    with pytest.raises(Busy, match="these VMs move"):
        await copy_registry(config)
    registry = await in_etcd(etcd, tmp_path)
    assert await registry.list() == []
    await registry.close()


async def test_the_configuration_must_name_etcd(tmp_path: Path) -> None:
    (tmp_path / "manager.toml").write_text('listen = "127.0.0.1:7440"\n')
    with pytest.raises(InvalidInput, match="does not keep its registry in etcd"):
        await copy_registry(tmp_path / "manager.toml")


def test_the_command_tells_what_it_did(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-o", "json", "cluster", "registry-copy", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["owned"] == 2
    assert run(["cluster", "registry-copy", "--config", str(config)]) == 4
    assert "copied already" in capsys.readouterr().err
