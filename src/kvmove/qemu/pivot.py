"""Switching a running VM's disk to another image file that holds the same: the end of a storage move on one host.

    prepare      the new image's nodes are added; the guest runs                       undo: abandon
    switch       the guest stands still; its device uses the new image after it        undo: switch_back
    finish       the old image's nodes are deleted, and with them its lock

The switch is a mirror that copies nothing (`sync=none`) and is completed at once: that is how QEMU 7.2 lets go of one
node and takes another under a device that the guest uses (block/mirror.c, mirror_exit_common).

Invariant: which image the device uses is asked of QEMU, never remembered. So every step may be asked for again, after
a lost answer or by an agent that was restarted, and does only what is left to do. A job is completed once at most: one
that is found from before is ended, not completed again.

Not done here: copying, stopping the guest and letting it run, and ending our own mirror. Whether both images hold the
same is the caller's to know.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from kvmove.errors import MoveFailed, QemuError
from kvmove.model.vm import VmDefinition
from kvmove.qemu import run_control
from kvmove.qemu.disk_nodes import CurrentDisk, file_node, named_nodes, node_options, spare_name
from kvmove.qemu.instance import Instance
from kvmove.qemu.jobs import OVER, READY, Job

SWITCH_SECONDS = 10.0
"""How long each half of a switch may take. QEMU flushes the new image in it: the caller syncs it before."""


class Pivot:
    """One disk's way to the image `file`; `disk` is its name in `definition`, which says how the new image is.

    `is_device`: `file` is a block device. It must have the disk's full size, and be named by the same path each time.
    Another program's lock on it is noticed by `switch`. Nothing is asked of QEMU before `prepare`.
    """

    def __init__(
        self, instance: Instance, definition: VmDefinition, disk: str, file: Path, *, is_device: bool = False
    ) -> None:
        self.file = file
        self._is_device = is_device
        self._instance = instance
        self._definition = definition
        self._index, self._disk = next((n, d) for n, d in enumerate(definition.disks) if d.name == disk)
        self._job = Job(instance.monitor, f"pivot-job{self._index}")
        self._filter_node = f"pivot-filter{self._index}"

    async def prepare(self) -> None:
        """Add the new image's nodes; what an earlier try added is replaced. The guest may run and our mirror too.

        :raise MoveFailed: QEMU cannot open the file, or it has another size than the disk.
        :raise Unreachable: QEMU does not answer. After both the caller must `abandon`: parts may be there.
        """
        if await self.settle():
            return
        current = await self._current()
        new = spare_name(self._index, current.node)
        await self._delete(new)
        for options in node_options(new, self._disk, self.file, is_device=self._is_device):
            await self._instance.monitor.execute("blockdev-add", options)
        nodes = await named_nodes(self._instance.monitor)
        have, want = (nodes[name]["image"]["virtual-size"] for name in (new, current.node))
        if have != want:
            raise MoveFailed(f"the new image {self.file} has {have} bytes, disk {self._disk.name} has {want}")

    async def abandon(self) -> None:
        """Undo of `prepare`, and of a `switch` that failed: delete the new image's nodes. The guest may run.

        :raise MoveFailed: the device uses the new image; nothing was changed. See `switch_back`.
        :raise Unreachable: QEMU does not answer; the nodes may be there. They cost nothing but an open file.
        """
        if await self.settle():
            raise MoveFailed(f"disk {self._disk.name} is on {self.file} already; it cannot be given up")
        await self._delete_spare()

    async def switch(self) -> None:
        """Let the device use the new image. The guest must stand still until this has returned, our mirror must have
        ended, and both images must hold the same, synced.

        :raise MoveFailed: the guest runs, the new image was not prepared or cannot be written, or QEMU refused. The
            device uses the old image, and the guest can go on.
        :raise Unreachable: QEMU does not answer. The device uses either image, both hold the same; `settle` tells.
        """
        if not await self.settle():
            await self._use_spare()

    async def switch_back(self) -> None:
        """Undo of `switch`: let the device use the old image. Only while the guest has stood still since; no `finish`.

        Raises as `switch` does, with the images' parts exchanged.
        """
        if await self.settle():
            await self._use_spare()

    async def finish(self) -> None:
        """Delete the old image's nodes; QEMU closes the file and gives up its lock. The guest may run.

        :raise MoveFailed: the device does not use the new image; nothing was changed.
        :raise Unreachable: QEMU does not answer; the nodes may be there. Ask again.
        """
        if not await self.settle():
            raise MoveFailed(f"disk {self._disk.name} is not on {self.file}; its old image is in use")
        await self._delete_spare()

    async def settle(self) -> bool:
        """Whether the device uses the new image. A switch whose end nobody saw is over after it, either way.

        Changes nothing else.

        :raise Unreachable: QEMU does not answer, or the switch does not end. :raise MoveFailed: see `current_disks`.
        """
        await self._end_job()
        return (await self._current()).file == self.file

    async def _use_spare(self) -> None:
        """Let the device use the disk's other root node, and require that it does. Raises as `switch` does."""
        if await run_control.run_state(self._instance.monitor) == run_control.RUNNING:
            # What the guest writes while QEMU puts the mirror in place would reach the old image alone.
            raise MoveFailed(f"the guest runs; disk {self._disk.name} can be switched only while it stands still")
        old = (await self._current()).node
        new = spare_name(self._index, old)
        error = await self._run_job(old, new)
        if (await self._current()).node != new:
            raise MoveFailed(f"disk {self._disk.name} stays on its image: {error or 'QEMU did not say why'}")

    async def _run_job(self, old: str, new: str) -> str | None:
        """The switch itself, from the root node `old` to `new`; what error QEMU's job had."""
        arguments = {
            "job-id": self._job.job_id,
            "device": old,
            "target": new,
            "sync": "none",
            "copy-mode": "write-blocking",
            "filter-node-name": self._filter_node,
            "on-source-error": "report",
            "on-target-error": "report",
            "auto-dismiss": False,
        }
        await self._instance.monitor.execute("blockdev-mirror", arguments, timeout=SWITCH_SECONDS)
        if await self._job.wait((READY, *OVER), timeout=SWITCH_SECONDS) == READY:
            try:
                await self._instance.monitor.execute("job-complete", {"id": self._job.job_id}, timeout=SWITCH_SECONDS)
            except QemuError:
                await self._end_job()
                raise
            await self._job.wait(OVER, timeout=SWITCH_SECONDS)
        return await self._job.dismiss()

    async def _end_job(self) -> None:
        """End a job that is there from an earlier try, whether or not it was told to complete.

        A soft cancel does no harm to one that is completing (QEMU 7.2 job.c, job_cancel_async_locked), and leaves the
        device on the old image otherwise. Before READY QEMU would make it a forced one; see `block_jobs`.
        """
        status = await self._job.wait((READY, *OVER), timeout=SWITCH_SECONDS)
        if status == READY:
            with contextlib.suppress(QemuError):  # it ended by itself just now
                await self._instance.monitor.execute("block-job-cancel", {"device": self._job.job_id})
            status = await self._job.wait(OVER, timeout=SWITCH_SECONDS)
        if status is not None:
            await self._job.dismiss()

    async def _current(self) -> CurrentDisk:
        return (await self._instance.look_at_disks(self._definition))[self._disk.name]

    async def _delete_spare(self) -> None:
        await self._delete(spare_name(self._index, (await self._current()).node))

    async def _delete(self, node: str) -> None:
        """Delete a root node that no device uses and the file node below it; what is not there is no error."""
        there = await named_nodes(self._instance.monitor)
        for name in (node, file_node(node)):
            if name in there:
                await self._instance.monitor.execute("blockdev-del", {"node-name": name})
