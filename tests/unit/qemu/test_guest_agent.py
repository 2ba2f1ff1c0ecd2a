"""Whatever the agent in a guest says or does not say, asking it ends, and ends in words."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kvmove.errors import CheckFailed, Unreachable
from kvmove.qemu import guest_agent
from kvmove.qemu.guest_agent import Trimmed, connected, trim_guest
from kvmove.qemu.instance import Instance
from tests.support.fake_guest_agent import FakeGuestAgent, fake_guest_agent

REFUSAL = {"error": {"class": "GenericError", "desc": "Command guest-fstrim has been disabled"}}

NOT = "the guest was not trimmed: "


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_agent, "SYNC_SECONDS", 0.2)


@pytest.fixture
def port(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
async def fake(port: Path) -> AsyncIterator[FakeGuestAgent]:
    async with fake_guest_agent(port) as agent:
        yield agent


def instance(port: Path | None) -> Instance:
    return Instance(Mock(), Mock(), Mock(), {}, port)


def trims(*errors: str | None) -> dict[str, Any]:
    paths = [{"path": f"/{n}"} | ({"error": error} if error else {"trimmed": 1}) for n, error in enumerate(errors)]
    return {"return": {"paths": paths}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (trims(None), "the guest has trimmed 1 file system"),
        (trims(None, None, None), "the guest has trimmed 3 file systems"),
        (trims(None, "trim not supported"), "the guest has trimmed 1 of 2 file systems"),
        (trims(), "the guest has trimmed 0 file systems"),
        (REFUSAL, f"{NOT}the agent in the guest refuses guest-fstrim: Command guest-fstrim has been disabled"),
        (None, f"{NOT}no agent answers in the guest within 0.3 s"),
        (b"nonsense\n", f"{NOT}the agent in the guest gives an answer that is none"),
        (b"[]\n", f"{NOT}the agent in the guest gives an answer that is none"),
        ({"return": {"paths": 7}}, f"{NOT}the agent in the guest gives an answer that is none"),
    ],
)  # fmt: skip
async def test_a_trim_is_told_in_a_sentence(fake: FakeGuestAgent, port: Path, answer: object, said: str) -> None:
    fake.answers["guest-fstrim"] = answer
    assert await trim_guest(instance(port), timeout=0.3) == said


async def test_an_agent_that_does_not_trim_is_not_asked_to(fake: FakeGuestAgent, port: Path) -> None:
    fake.answers["guest-info"] = {"return": {"supported_commands": [{"name": "guest-fstrim", "enabled": False}]}}
    assert await trim_guest(instance(port)) == f"{NOT}the agent in the guest does not trim file systems"
    assert fake.asked == ["guest-sync-delimited", "guest-info"]


async def test_a_vm_without_an_agent_is_not_asked_and_nothing_is_said(fake: FakeGuestAgent) -> None:
    assert await trim_guest(instance(None)) == ""
    assert fake.asked == []


async def test_answers_to_others_are_passed_over(fake: FakeGuestAgent, port: Path) -> None:
    fake.before_sync = b'{"return": {}}\n\xff{"return": 12}\n{"ret'
    fake.answers["guest-fstrim"] = trims(None)
    async with connected(port) as agent:
        await agent.ping()
        assert await agent.commands() == {"guest-fstrim": True}
        assert await agent.trim() == Trimmed(1, 1)


@pytest.mark.parametrize("answer", [None, b"no delimiter\n", b'\xff{"return": 0}\n'])
async def test_without_the_answer_to_our_number_no_agent_answers(
    fake: FakeGuestAgent, port: Path, answer: bytes | None
) -> None:
    fake.answers["guest-sync-delimited"] = answer
    with pytest.raises(Unreachable, match="no agent answers in the guest within"):
        async with connected(port):
            pass


async def test_a_guest_that_talks_without_end_is_not_listened_to_for_long(fake: FakeGuestAgent, port: Path) -> None:
    fake.answers["guest-sync-delimited"] = b"x" * 2**22
    with pytest.raises(CheckFailed, match="an answer that is none"):
        async with connected(port):
            pass


async def test_a_port_that_nobody_has_cannot_be_reached(port: Path) -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        async with connected(port):
            pass


async def test_words_of_the_guest_are_cut(fake: FakeGuestAgent, port: Path) -> None:
    fake.answers["guest-ping"] = {"error": {"desc": "x" * 10_000}}
    async with connected(port) as agent:
        with pytest.raises(CheckFailed) as caught:
            await agent.ping()
    assert len(caught.value.detail) < 300
