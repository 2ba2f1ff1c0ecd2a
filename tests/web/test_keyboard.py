"""The page without a mouse, and what axe finds of each step on the way."""

import pytest

from kvmove.lab.ledger_vm import LedgerVm
from kvmove.units import MIB
from tests.support.browser import AtPage, browser
from tests.support.moving_guest import world

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(300)]

VM = LedgerVm(name="keyed", memory=160 * MIB, disk=128 * MIB, data=64 * MIB, ram_mib=16, rate=200)


async def press(at: AtPage, name: str) -> None:
    await at.tab_to(name)
    await at.page.keyboard.press("Enter")


async def step(at: AtPage, name: str) -> None:
    """On to the wizard's step of this name, as soon as nothing stops."""
    await at.page.locator("button:enabled", has_text="Next").wait_for()
    await press(at, "Next")
    await at.page.get_by_role("heading", name=name, exact=True).wait_for()
    assert await at.grave() == [], name


async def test_a_move_is_started_watched_and_cancelled_with_the_keyboard_alone() -> None:
    async with world(VM, "webk") as there, browser(there.lab) as at:
        await press(at, "Log out")
        await at.page.get_by_label("Token").wait_for()
        await at.tab_to("User name")
        await at.page.keyboard.type(at.user)
        await at.tab_to("Token")
        await at.page.keyboard.type(at.token)
        await at.page.keyboard.press("Enter")
        await at.sees("1 / 1")

        await at.tab_to("VMs")  # the tab; the table's region, of the same name, comes behind it
        await at.page.locator(".table-body").first.focus()
        await at.page.keyboard.press("Space")
        await press(at, "Move 1 VM")
        await at.page.get_by_role("heading", name="Type", exact=True).wait_for()
        assert await at.grave() == [], "type"
        await step(at, "Destination")
        await at.sees("1. h2")
        await at.tab_to("1. h2")
        await at.page.keyboard.press("Space")
        await step(at, "Storage")
        await step(at, "Networks")
        await step(at, "Policy")
        await at.tab_to("Bandwidth")
        await at.page.keyboard.type("1MiB")
        await step(at, "Summary")
        await at.page.locator("button:enabled", has_text="Start").wait_for()
        await press(at, "Start")

        await at.page.get_by_role("img", name="Regions of root").wait_for()
        assert await at.grave() == [], "a move"
        await press(at, "Cancel …")
        await at.page.locator("dialog").wait_for()
        assert await at.page.evaluate("document.activeElement.closest('dialog') !== null"), "the focus is outside"
        assert await at.grave() == [], "a dialog"
        await at.page.keyboard.press("Escape")
        await at.page.locator("dialog").wait_for(state="detached")
        assert await at.page.evaluate("document.activeElement.innerText") == "Cancel …", "the focus is lost"
        await at.page.keyboard.press("Enter")
        await press(at, "Cancel the move")
        await at.state("cancelled")
        assert await at.grave() == [], "a report"
        await there.runs_on(there.lab.host("h1"))
        assert at.faults == []
