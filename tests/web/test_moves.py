"""Moves at the page, by a real browser at a real manager with a real guest."""

import asyncio

import pytest

from kvmove.lab import processes
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.model.placement import MaintenanceRequest
from kvmove.model.task import TaskState
from kvmove.units import MIB
from tests.support.browser import AtPage, browser
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="paged", memory=160 * MIB, disk=128 * MIB, data=64 * MIB, ram_mib=16, rate=200)


def manager_runs(lab: Lab) -> bool:
    return any(processes.argv(pid)[1:4] == ["-m", "kvmove", "manager"] for pid in lab.world.pids())


async def wizard(at: AtPage, there: World, host: str, **policy: str) -> None:
    """Through all steps of a unified move up to the task's page."""
    await at.show(f"move?vm={there.vm.uuid}")
    await at.click("Next")
    await at.page.get_by_role("radio", name=host).check()
    for _ in ("storage", "networks", "policy"):
        await at.click("Next")
    for field, value in policy.items():
        await at.page.get_by_label(field).fill(value)
    await at.click("Next")
    await at.sees(f"kvmove move paged {host}")
    await at.click("Start")


async def test_a_move_through_the_wizard_to_its_report() -> None:
    async with world(VM, "web") as there, browser(there.lab) as at:
        await wizard(at, there, "h2")
        await at.page.get_by_role("heading", name="Report").wait_for()
        await at.sees("The guest stood still")
        await at.state("succeeded")
        [task] = await there.lab.manager.tasks()
        assert (task.state, task.started_by) == (TaskState.SUCCEEDED, "page-operator")
        assert at.faults == []
        await there.runs_on(there.lab.host("h2"))


@pytest.mark.full
async def test_cancelling_in_mid_copy_leaves_the_vm_where_it_was() -> None:
    async with world(VM, "webc") as there, browser(there.lab) as at:
        await wizard(at, there, "h2", Bandwidth="1MiB")
        await at.page.get_by_role("img", name="Regions of root").wait_for()
        await at.click("Cancel …")
        await at.sees("goes on running on h1; h2 is cleaned up.")
        await at.click("Cancel the move")
        await at.state("cancelled")
        await at.sees("is running on h1")
        await there.runs_on(there.lab.host("h1"))
        assert at.faults == []


@pytest.mark.full
async def test_a_blocked_move_says_why_and_cannot_be_started() -> None:
    async with world(VM, "webb") as there, browser(there.lab) as at:
        await there.lab.manager.enter_maintenance("h2", MaintenanceRequest())
        await at.show(f"move?vm={there.vm.uuid}")
        await at.click("Next")
        await at.page.get_by_role("radio", name="h2").check()
        await at.page.locator(".findings", has_text="maintenance").first.wait_for()
        assert await at.page.get_by_role("button", name="Next", exact=True).is_disabled()
        await at.sees("What blocks this host has to be mended first.")


@pytest.mark.full
async def test_evacuation_shows_its_plan_first_and_then_does_it() -> None:
    async with world(VM, "webe") as there, browser(there.lab) as at:
        await at.show("hosts/h1")
        await at.page.get_by_label("move disks too").check()
        await at.click("Enter maintenance …")
        await at.page.locator("dialog", has_text="paged (running) to h2").wait_for()
        assert (await there.lab.manager.host("h1")).maintenance is None, "nothing has begun"
        await at.click("Enter maintenance")
        await at.state("succeeded")
        await there.runs_on(there.lab.host("h2"))
        assert at.faults == []


@pytest.mark.full
async def test_the_page_goes_on_after_the_manager_restarted() -> None:
    async with world(VM, "webr") as there, browser(there.lab) as at:
        await at.show(f"vms/{there.vm.uuid}")
        await at.state("running")
        await there.lab.hold("world", "manager")
        await at.sees("trying again")
        await eventually(lambda: not manager_runs(there.lab))
        while not there.lab.folders.manager_socket.exists():
            await there.lab.release("world", "manager")  # its host takes a moment to see that it has ended
            await asyncio.sleep(0.5)
        await at.page.locator(".connection.live").wait_for()
        await there.lab.ready()
        await there.lab.manager.pause_vm("paged")
        await at.state("paused")
        assert at.faults == []
