"""Several VMs moved in one go at the page, by a real browser with real guests."""

import pytest

from kvmove.lab import ledger_vm
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.model.task import TaskState
from kvmove.units import MIB
from tests.support.browser import browser
from tests.support.moving_guest import world

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(300)]

VM = LedgerVm(name="paged", memory=160 * MIB, disk=128 * MIB, data=64 * MIB, ram_mib=16, rate=200)
OTHER = LedgerVm(name="second", number=2, memory=160 * MIB, disk=128 * MIB, data=64 * MIB, ram_mib=16, rate=200)


async def test_two_vms_are_moved_in_one_go() -> None:
    async with world(VM, "webv") as there, browser(there.lab) as at:
        await ledger_vm.define(there.lab, OTHER, there.image, "h1")
        await ledger_vm.start(there.lab, OTHER)
        for vm in (VM, OTHER):
            await at.page.get_by_label(f"Choose {vm.name}").check()
        await at.click("Move 2 VMs")
        await at.click("Next")
        await at.page.get_by_role("radio", name="h2").check()
        for _ in ("storage", "networks", "policy", "summary"):
            await at.click("Next")
        for vm in (VM, OTHER):
            await at.sees(f"kvmove move {vm.uuid} h2")
        await at.click("Start")
        await at.page.get_by_role("heading", name="Tasks", exact=True).wait_for()
        await at.page.locator("#content td .label", has_text="succeeded").nth(1).wait_for()
        tasks = await there.lab.manager.tasks()
        assert {(task.vm, task.state) for task in tasks} == {(vm.name, TaskState.SUCCEEDED) for vm in (VM, OTHER)}
        await there.runs_on(there.lab.host("h2"))
        assert at.faults == []
