"""`kvmove lab`, as far as it goes without agents: status, exec, down, and the words for what cannot be."""

import asyncio
import json
from pathlib import Path

import pytest

from kvmove.cli.main import run
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LabSpec
from tests.support.labs import SMALL, lab_name

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


async def test_a_lab_is_shown_used_and_taken_down(capfd: pytest.CaptureFixture[str]) -> None:
    spec = LabSpec(name=lab_name("cli"), datastore=SMALL, bare=True)
    lab = await Lab.up(spec)
    try:
        assert await command("lab", "status", "--name", spec.name, "-o", "json") == 0
        shown = json.loads(capfd.readouterr().out)
        assert set(shown["hosts"]) == {"world", "h1", "h2"}
        assert all(host["running"] for host in shown["hosts"].values())
        assert await command("lab", "exec", "--name", spec.name, "h2", "--", "sh", "-c", "hostname; exit 7") == 7
        assert capfd.readouterr().out == "h2\n"
        assert await command("lab", "exec", "--name", spec.name, "h9", "--", "true") == 4
        for change, shown_as in (("down", "DOWN"), ("up", "UP")):
            assert await command("lab", "nic", "--name", spec.name, "h2", "mig1", change, "-o", "json") == 0
            assert json.loads(capfd.readouterr().out)["link"] == change
            link = json.loads(await lab.host("h2").exec(["ip", "-j", "link", "show", "mig1"]))
            assert link[0]["operstate"] == shown_as
        assert await command("lab", "nic", "--name", spec.name, "h2", "mig1", "80Mbit") == 0
        assert "mig1 of h2 has 9.5 MiB/s in both directions." in capfd.readouterr().out
        assert "rate 80Mbit" in await lab.host("h2").exec(["tc", "qdisc", "show", "dev", "mig1"])
        assert await command("lab", "nic", "--name", spec.name, "h2", "mgmt0", "down") == 4
        assert await command("lab", "nic", "--name", spec.name, "h2", "mig1", "sideways") == 2
        assert await command("lab", "down", "--name", spec.name) == 0
        assert lab.leftovers() == []
        assert await command("lab", "status", "--name", spec.name) == 9
    finally:
        await Lab.down(spec.name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "../etc"],
        ["--rate", "fast"],
        ["--nics", "1", "--rate", "1Gbit", "--rate", "1Gbit"],
        ["--hosts", "0"],
        ["--datastore-size", "1"],
        ["--memory", "much"],
    ],
)
async def test_a_lab_that_cannot_be_is_refused_before_anything_is_built(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert await command("lab", "up", *arguments) == 2
    assert capfd.readouterr().out == ""


async def command(*words: str) -> int:
    return await asyncio.to_thread(run, words)
