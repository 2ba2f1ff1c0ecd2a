"""VMs that are checked and not moved, on a lab: what a check of theirs finds, by its codes."""

from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from kvmove.errors import CheckFailed
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.spec import LOCAL
from kvmove.model.move import MoveRequest
from kvmove.model.vm import DiskDefinition, VmDefinition
from kvmove.units import MIB
from tests.support.comes_true import comes_true
from tests.support.eventually import eventually


async def define(lab: Lab, name: str, disk: dict[str, Any] | None = None, **more: Any) -> VmDefinition:
    """A VM on h1 that is off, with one disk."""
    disks = (DiskDefinition.model_validate({"name": "root", "datastore": LOCAL, "size": 16 * MIB} | (disk or {})),)
    made = VmDefinition(name=name, uuid=uuid5(NAMESPACE_DNS, name), **{"memory": 64 * MIB, "disks": disks} | more)
    await lab.manager.define_vm("h1", made)
    return made


async def codes(lab: Lab, vm: str, **asked: Any) -> list[str]:
    """What a check of a move of it to h2 finds now."""
    request = MoveRequest.model_validate({"vm": vm, "host": "h2"} | asked)
    try:
        return [it.code for it in (await lab.manager.check_move(request)).findings]
    except CheckFailed as error:
        return [str(it["code"]) for it in error.checks]


async def shell(host: LabHost, line: str) -> None:
    """Run a line of shell on the host."""
    await host.exec(["sh", "-ec", line])


async def restart_agent(lab: Lab, vm: str) -> None:
    """The agent of h2 ends in order and comes again; while it is away, a check says that."""
    host = lab.host("h2")
    await lab.hold("h2")
    await eventually(lambda: host.agent_pid() is None)
    assert await codes(lab, vm) == ["host-silent"]
    await lab.release("h2")

    async def answers() -> bool:
        return "host-silent" not in await codes(lab, vm)

    await comes_true(answers, between=0.1)
