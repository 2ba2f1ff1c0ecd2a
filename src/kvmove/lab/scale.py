"""How the manager does with many hosts: the time of a whole balance plan, the time to start a task, its memory.

Inventory, registry (SQLite on disk), tasks, moves and balancing are the manager's own; the agents are figures
(`scale_agents`), in the same process. Each size runs in a process of its own, so that memory is its own too: the
largest that it ever was, the simulated agents included.

Run as a module it is that process: `python -m kvmove.lab.scale HOSTS FOLDER` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from pydantic import RootModel

from kvmove.lab.commands import LabFailed
from kvmove.lab.scale_agents import VMS_PER_HOST, SimulatedAgent
from kvmove.manager.agents import Agent
from kvmove.manager.balance_settings import BalanceSettings
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.placement_parts import placement_parts
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.model.move import HostRef, MoveRequest
from kvmove.model.strict import Strict
from kvmove.model.vm import VmStatus
from kvmove.registry.sqlite import SqliteRegistry

SIZES = (10, 100, 1000)
_STARTS = 20
_PLANS = 3
_CLAIMS_AT_ONCE = 500


class ScaleRow(Strict):
    """`plan_seconds`: a whole balance plan, all hosts asked; the median of three. `task_start_ms`: a move's start up to
    both agents having it; the median of twenty."""

    plan_seconds: float
    task_start_ms: float
    memory_mib: float


class ScaleResult(RootModel[dict[str, ScaleRow]]):
    """By the number of hosts."""


async def measure_all(sizes: tuple[int, ...] = SIZES) -> ScaleResult:
    """Each size in a process of its own.

    :raise LabFailed: one of them failed.
    """
    rows = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="kvmove-scale-") as folder:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "kvmove.lab.scale", str(size), folder,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, said = await process.communicate()
        if process.returncode != 0:
            raise LabFailed(f"the run with {size} hosts failed: {said.decode(errors='replace')[-500:]}")
        rows[str(size)] = ScaleRow.model_validate_json(out)
    return ScaleResult(rows)


async def measure(hosts: int, folder: Path) -> ScaleRow:
    """The figures for so many hosts, in this process."""
    refs = [HostRef(name=f"h{number:04d}", control=f"10.0.0.1:{10000 + number}") for number in range(hosts)]
    agents = {ref.name: SimulatedAgent(ref, number) for number, ref in enumerate(refs)}
    registry = SqliteRegistry(folder / "registry.db")
    vms = [vm for agent in agents.values() for vm in agent.status_of_vms]
    await _claim(registry, vms)
    inventory = Inventory(refs, lambda ref: cast(Agent, agents[ref.name]))  # what it cannot do, it refuses
    book = await TaskBook(TaskStore(folder / "tasks.db")).open()
    moves = Moves(inventory, registry, book, Follower(inventory, registry, book))
    placement = placement_parts(BalanceSettings(threshold=0.05), folder, inventory, moves, book)
    plans = []
    for _ in range(_PLANS):
        began = time.perf_counter()
        plan = await placement.balancer.plan()
        plans.append(time.perf_counter() - began)
    if not plan.recommendations:
        raise LabFailed("nothing was recommended: the figures measure nothing")
    starts = []
    for step in range(_STARTS):
        vm = vms[step * len(vms) // _STARTS]
        target = refs[(int(vm.host[1:]) + 1) % hosts if vm.host != refs[-1].name else hosts - 2].name
        began = time.perf_counter()
        await moves.start(MoveRequest(vm=vm.definition.name, host=target, datastore=None))
        starts.append(time.perf_counter() - began)
    await placement.close()
    await moves.close()
    await book.close()
    await registry.close()
    return ScaleRow(
        plan_seconds=round(statistics.median(plans), 3),
        task_start_ms=round(1000 * statistics.median(starts), 1),
        memory_mib=round(_largest_memory(), 1),
    )


async def _claim(registry: SqliteRegistry, vms: list[VmStatus]) -> None:
    for first in range(0, len(vms), _CLAIMS_AT_ONCE):
        some = vms[first : first + _CLAIMS_AT_ONCE]
        await asyncio.gather(*(registry.claim(vm.definition.uuid, vm.host) for vm in some))


def _largest_memory() -> float:
    """The largest that this process ever was, in MiB (proc(5), VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def vms_of(hosts: str) -> int:
    """How many VMs so many hosts have here."""
    return int(hosts) * VMS_PER_HOST


if __name__ == "__main__":
    row = asyncio.run(measure(int(sys.argv[1]), Path(sys.argv[2])))
    sys.stdout.write(json.dumps(row.model_dump()) + "\n")
