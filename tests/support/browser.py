"""A real browser at the page of a lab's manager, logged in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from kvmove.lab.lab import Lab
from kvmove.lab.page_door import page_door
from kvmove.model.access import NewUser, UserRole

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 60_000
"""Longer than anything takes that the page waits for, on a slow machine."""

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

MOST_TABS = 120

FOCUS = """() => {
    const it = document.activeElement, style = getComputedStyle(it);
    const name = it.getAttribute("aria-label") ?? it.labels?.[0]?.innerText ?? it.innerText ?? "";
    return {name: name.trim(), marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0};
}"""

OTHER_THEME = (
    """() => [...document.querySelectorAll("button")].find(it => ["Dark", "Light"].includes(it.innerText))?.click()"""
)
"""Not by a click of the mouse: a dialog may lie over the button."""


@dataclass
class AtPage:
    """`faults` are errors that the page's scripts met, and things that its policy refused. `user` is who has logged in,
    with this `token`."""

    page: Page
    address: str
    faults: list[str]
    user: str
    token: str

    async def show(self, path: str) -> None:
        await self.page.goto(f"{self.address}#/{path}")

    async def click(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def sees(self, text: str) -> None:
        await self.page.get_by_text(text).first.wait_for()

    async def state(self, state: str) -> None:
        """Wait until the page's own heading says so."""
        await self.page.locator("h1 .label", has_text=state).wait_for()

    async def tab_to(self, name: str) -> None:
        """Press Tab until what has this name, or begins with it, has the focus; it must be seen that it has."""
        for _ in range(MOST_TABS):
            await self.page.keyboard.press("Tab")
            focus = await self.page.evaluate(FOCUS)
            if focus["name"].casefold().startswith(name.casefold()):  # capitals are style
                assert focus["marked"], f"nobody sees that {name} has the focus"
                return
        raise AssertionError(f"Tab never comes to {name}")

    async def grave(self) -> list[str]:
        """What axe finds on the page as it is, dark and light, that keeps people out."""
        await self.page.evaluate(AXE.read_text())
        found = []
        for _ in ("as it is", "the other"):
            result = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
            found += [
                f"{it['id']}: {[node['html'] for node in it['nodes']][:3]}"
                for it in result["violations"]
                if it["impact"] in ("serious", "critical")
            ]
            await self.page.evaluate(OTHER_THEME)
        return found

    async def too_wide(self) -> int:
        """By how many pixels the whole page scrolls sideways."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


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
            yield AtPage(page, address, faults, user.name, user.token)
            await page.unroute_all(behavior="ignoreErrors")
            await chromium.close()
    await lab.manager.access.remove_user(user.name)
