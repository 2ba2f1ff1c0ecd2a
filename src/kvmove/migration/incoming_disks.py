"""The disks of a move at its destination: made, written, sealed; then the VM's own, or deleted.

    bring       images below the disks, which the datastores lack, come first, as disks that nobody writes to
    make        partial folders and images; streams are taken, unless the source writes the images by itself
    reopen      what a dead agent of this host had made, as it lies there: `make` is not done again
    sync        all is durable and nobody writes any more; with `verify` the disks are frozen as they are
    commit      the folders are whole: the VM is handed over
    discard     nothing is left

Invariant: a disk that is not handed over lies in a folder marked partial, which no VM can be started from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from kvmove.disk.clone import clone
from kvmove.disk.datastore import Datastore
from kvmove.disk.incoming import FROZEN_SUFFIX
from kvmove.errors import Busy, CheckFailed, MoveFailed
from kvmove.migration.bases import NO_BASES, NewBases
from kvmove.migration.disk_images import TargetImages, image_digest
from kvmove.migration.host_parts import HostParts
from kvmove.model.image import BaseImage
from kvmove.model.move import DiskPlacement, MovePlan
from kvmove.mover.receiver import DiskReceiver
from kvmove.transport.stream import Stream, StreamLost


class IncomingDisks:
    """Those of one move. `digests` are known after `find_digests`; those of disks that could not be frozen before.

    `incarnation` names this opening of the images: in another, what was acknowledged of an image that a storage daemon
    writes may be lost, for that dies with its agent.
    """

    def __init__(self, host: HostParts, plan: MovePlan) -> None:
        self.digests: dict[str, str] = {}
        self.incarnation = uuid4().hex
        self._host = host
        self._plan = plan
        self._vm = plan.vm.uuid
        self._targets = TargetImages(host, plan, self._store)
        self._receiver: DiskReceiver | None = None
        self._bases = NewBases(plan, NO_BASES, self._store)
        self._open_bases = ExitStack()

    @property
    def failure(self) -> str:
        """Why the disks cannot go on; empty while they can."""
        return self._receiver.failure if self._receiver is not None else ""

    @property
    def applied_bytes(self) -> int:
        return self._receiver.applied_bytes if self._receiver is not None else 0

    def times(self) -> dict[str, float]:
        """Where its threads' time went, as `model.time_spent.DestinationTime`; empty while there are none."""
        return self._receiver.times().model_dump() if self._receiver is not None else {}

    async def bring(self, bases: Mapping[str, Sequence[BaseImage]]) -> list[str]:
        """The images below the disks are going to come, unless they are here: those whose keys are returned, in that
        order.

        :raise KvmoveError: one cannot be made; `discard` what is there.
        """
        self._bases = NewBases(self._plan, bases, self._store)
        wanted = await asyncio.to_thread(self._bases.missing)
        await self._bases.make(wanted)
        targets = [] if self._plan.over_storage else self._bases.open(wanted, self._open_bases)
        self._receiver = DiskReceiver(list(targets))
        return [it.key for it in wanted]

    async def _take_bases(self) -> None:
        """What was to come has come."""
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            await asyncio.to_thread(receiver.sync)
            await asyncio.to_thread(receiver.stop)
            self._open_bases.close()
        await self._bases.commit()

    async def make(self) -> None:
        """:raise KvmoveError: one cannot be made; `discard` what is there."""
        await self._take_bases()
        coming = self._plan.disks_of(lambda disk: disk.destination_datastore)
        for placement in self._plan.disks:
            store, disk = self._store(placement), self._plan.new_disk(placement)
            await asyncio.to_thread(store.begin_incoming, self._vm, self._plan.move_id, coming[store.name])
            below = self._bases.under(placement)
            await asyncio.to_thread(store.create_disk, self._vm, disk, reserve=placement.space, below=below)
        await self.reopen()

    async def reopen(self) -> None:
        """Open what `make` has made.

        :raise KvmoveError: an image cannot be opened; `stop` what is open.
        """
        if not self._plan.over_storage:
            await self._targets.open()
        self._receiver = DiskReceiver(list(self._targets.disks))

    async def take_anew(self) -> None:
        """End all streams: nothing more of them is applied. Those that come from now on are another source's, and
        their numbers begin anew.

        :raise MoveFailed: a disk could not be written.
        """
        receiver = self._receiver
        if receiver is None:
            raise MoveFailed("The disks are not open any more: the move is over.")
        await asyncio.to_thread(receiver.stop)
        if receiver.failure:  # also of what was under way until now; a later sync would not fail for it again
            raise MoveFailed(f"The disks are not open any more: {receiver.failure}.")
        self._receiver = DiskReceiver(list(self._targets.disks))

    def _store(self, placement: DiskPlacement) -> Datastore:
        store = self._host.datastores.get(placement.destination_datastore)
        if store is None:
            raise CheckFailed(f"host {self._host.name} has no datastore {placement.destination_datastore}")
        return store

    def accept(self, number: int, stream: Stream) -> Callable[[], None]:
        """Take a stream of the source; called in its thread. :raise StreamLost: the move is over."""
        if self._receiver is None:
            raise StreamLost("the move is over")
        return self._receiver.accept(number, stream)

    async def sync(self) -> None:
        """:raise Busy: the disks are not open. :raise KvmoveError: the storage failed, now or before."""
        receiver = self._receiver
        if receiver is None:
            raise Busy(f"move {self._plan.move_id} has no disks open here")
        await asyncio.to_thread(receiver.sync)
        if receiver.failure:
            raise MoveFailed(f"The destination cannot go on: {receiver.failure}.")
        await self._targets.seal()
        if self._plan.verify:
            for placement in self._plan.disks:
                await self._freeze(placement)

    async def _freeze(self, placement: DiskPlacement) -> None:
        """Keep the disk as it is now: as a reflink, or by its digest where the file system has none."""
        path, frozen = self._image(placement), self._frozen(placement)
        frozen.unlink(missing_ok=True)
        if not path.is_file() or not await asyncio.to_thread(clone, path, frozen):
            self.digests[placement.name] = await image_digest(self._host.run, self._plan.new_disk(placement), path)

    def _image(self, placement: DiskPlacement) -> Path:
        return self._store(placement).disk_path(self._vm, self._plan.new_disk(placement))

    def _frozen(self, placement: DiskPlacement) -> Path:
        return self._store(placement).path / str(self._vm) / f"{placement.name}{FROZEN_SUFFIX}"

    async def find_digests(self) -> None:
        """The digests of the disks as they were at the last `sync`, also before a restart of the agent; none of a disk
        whose copy is not there any more."""
        for placement in self._plan.disks:
            if (frozen := self._frozen(placement)).exists():
                disk = self._plan.new_disk(placement)
                self.digests[placement.name] = await image_digest(self._host.run, disk, frozen)
                frozen.unlink(missing_ok=True)

    def drop_frozen(self) -> None:
        """Nobody asks for digests any more."""
        for placement in self._plan.disks:
            self._frozen(placement).unlink(missing_ok=True)

    async def stop(self) -> None:
        """Nothing is written any more; threads and daemons end."""
        if self._receiver is not None:
            await asyncio.to_thread(self._receiver.stop)
            self._receiver = None
        self._open_bases.close()
        await self._targets.close()

    async def commit(self) -> None:
        """The disks are the VM's, durably. May be done again."""
        for name in {disk.destination_datastore for disk in self._plan.disks}:
            store = self._host.datastores[name]
            await asyncio.to_thread(store.commit_incoming, self._vm, self._plan.move_id)

    async def discard(self) -> None:
        """Delete what was made. May be done again. Call `stop` before."""
        for name in {disk.destination_datastore for disk in self._plan.disks}:
            store = self._host.datastores.get(name)
            if store is not None:
                await asyncio.to_thread(store.discard_incoming, self._vm, self._plan.move_id)
                await asyncio.to_thread(store.discard_bases, self._plan.move_id)
