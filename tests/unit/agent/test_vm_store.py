"""What a host remembers of its VMs: whole, durable, and never guessed."""

import os
from pathlib import Path

import pytest

from kvmove.agent.vm_store import VmRecord, VmStore
from kvmove.errors import NeedsAttention
from tests.support.samples import DB1, WEB1, definition

WEB = VmRecord(definition=definition("web", WEB1), epoch=3, runs=True, accelerator="tcg")
DB = VmRecord(definition=definition("db", DB1))


def test_what_was_written_is_read_after_a_restart(tmp_path: Path) -> None:
    store = VmStore(tmp_path)
    store.write(WEB)
    store.write(DB)
    assert VmStore(tmp_path).load() == [WEB, DB]


def test_a_record_replaces_the_one_before(tmp_path: Path) -> None:
    store = VmStore(tmp_path)
    store.write(WEB)
    changed = WEB.model_copy(update={"epoch": 4, "runs": False})
    store.write(changed)
    assert store.load() == [changed]


def test_a_forgotten_vm_leaves_nothing_and_may_be_forgotten_twice(tmp_path: Path) -> None:
    store = VmStore(tmp_path)
    store.write(WEB)
    store.remove(WEB1)
    store.remove(WEB1)
    assert store.load() == []
    assert list((tmp_path / "vms").iterdir()) == []


def test_a_write_that_was_cut_short_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VmStore(tmp_path)
    store.write(WEB)

    def fail(descriptor: int) -> None:
        raise OSError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no power"):
            store.write(WEB.model_copy(update={"epoch": 4}))
    assert VmStore(tmp_path).load() == [WEB]


def test_the_record_and_its_folders_are_synced_before_the_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    store = VmStore(tmp_path)
    monkeypatch.setattr(os, "fsync", note)
    store.write(WEB)
    folder = tmp_path / "vms" / str(WEB1)
    assert synced == [str(tmp_path / "vms"), f"{folder}/vm.json.new", str(folder)]


@pytest.mark.parametrize("content", ["", "{", '{"definition": {}}', "[]"])
def test_a_damaged_record_is_not_passed_over(tmp_path: Path, content: str) -> None:
    store = VmStore(tmp_path)
    store.write(WEB)
    (tmp_path / "vms" / str(WEB1) / "vm.json").write_text(content)
    with pytest.raises(NeedsAttention, match="is damaged"):
        store.load()
