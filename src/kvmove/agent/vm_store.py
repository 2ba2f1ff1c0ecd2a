"""What this host remembers of its VMs, across restarts and power failures: one file per VM.

    <state>/vms/<uuid>/vm.json

Invariant: a record is the old one or the new one, whole, and the new one once `write` has returned (written beside,
synced, renamed, folder synced). A VM without a record is not this host's; what it left in the folder of another is not
touched here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from kvmove.errors import NeedsAttention
from kvmove.model.strict import Strict
from kvmove.model.toml_file import explain
from kvmove.model.vm import VmDefinition
from kvmove.qemu.accelerator import Accelerator

RECORD = "vm.json"


class VmRecord(Strict):
    """A VM of this host. `epoch` is the ownership under which the host has it, 0 while it is being defined.

    `runs` is what the operator wants: a VM that runs by its record and has no QEMU has crashed. `accelerator` is the
    one it was last started with, empty before.
    """

    definition: VmDefinition
    epoch: int = 0
    runs: bool = False
    accelerator: Accelerator | None = None


class VmStore:
    """The records below `state`. Every method may raise OSError, as the storage does."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "vms"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> list[VmRecord]:
        """All records.

        :raise NeedsAttention: one is damaged. Nothing is guessed about a VM that may run.
        """
        return [self._read(path) for path in sorted(self._folder.glob(f"*/{RECORD}"))]

    def write(self, record: VmRecord) -> None:
        """Keep a record; it is durable when this returns."""
        folder = self._folder / str(record.definition.uuid)
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            _sync(self._folder)
        draft = folder / f"{RECORD}.new"
        with draft.open("w") as file:
            file.write(record.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(folder / RECORD)
        _sync(folder)

    def remove(self, vm: UUID) -> None:
        """Forget a VM, durably. Nothing happens when there is no record."""
        folder = self._folder / str(vm)
        if folder.is_dir():
            (folder / RECORD).unlink(missing_ok=True)  # first, and alone: half a deletion leaves no half VM
            _sync(folder)
            shutil.rmtree(folder)
            _sync(self._folder)

    def _read(self, path: Path) -> VmRecord:
        try:
            return VmRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise NeedsAttention(
                f"{path} is damaged: {explain(error)}",
                hint="Restore it from a backup, or remove its folder if the registry gives the VM to another host.",
            ) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
