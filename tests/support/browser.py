"""A real browser at the page of a lab's manager, logged in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from playwright.async_api import Page, async_playwright

from kvmove.lab.lab import Lab
from kvmove.lab.page_door import page_door
from kvmove.model.access import NewUser, UserRole

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 60_000
"""Longer than anything takes that the page waits for, on a slow machine."""

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@dataclass
class AtPage:
    """`faults` are errors that the page's scripts met, and things that its policy refused."""

    page: Page
    address: str
    faults: list[str]

    async def show(self, path: str) -> None:
        await self.page.goto(f"{self.address}#/{path}")

    async def click(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def sees(self, text: str) -> None:
        await self.page.get_by_text(text).first.wait_for()

    async def state(self, state: str) -> None:
        """Wait until the page's own heading says so."""
        await self.page.locator("h1 .label", has_text=state).wait_for()


@asynccontextmanager
async def browser(lab: Lab, role: UserRole = UserRole.OPERATOR, **options: Any) -> AsyncIterator[AtPage]:
    """A browser of a user who has just logged in; `options` are those of a browser's context."""
    user = await lab.manager.access.add_user(NewUser(name=f"page-{role}", role=role))
    with page_door(lab, "127.0.0.1:0") as address:
        async with async_playwright() as playwright:
            chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            context = await chromium.new_context(ignore_https_errors=True, **options)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            faults: list[str] = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
            await page.goto(address)
            await page.get_by_label("User name").fill(user.name)
            await page.get_by_label("Token").fill(user.token)
            await page.get_by_role("button", name="Log in").click()
            await page.get_by_role("heading", name="Overview").wait_for()
            yield AtPage(page, address, faults)
            await page.unroute_all(behavior="ignoreErrors")
            await chromium.close()
    await lab.manager.access.remove_user(user.name)
