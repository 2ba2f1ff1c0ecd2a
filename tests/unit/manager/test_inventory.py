"""What there is, as the agents say, and what is said when they do not."""

import asyncio

import pytest

from kvmove.errors import NotFound, Unreachable
from kvmove.manager import inventory as module
from kvmove.manager.inventory import Inventory
from kvmove.model.vm import VmState
from tests.support import samples
from tests.support.eventually import eventually
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2


class Hosts:
    """Two hosts with a VM on the first, and the inventory over them."""

    def __init__(self) -> None:
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2)}
        self.h1, self.h2 = self.agents.values()
        self.h1.status_of_vms = [samples.vm()]
        self.inventory = Inventory([H1, H2], lambda ref: self.agents[ref.name], poll_seconds=0.01)


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


async def test_hosts_and_vms_are_as_the_agents_say(hosts: Hosts) -> None:
    await hosts.inventory.refresh()
    assert [(host.name, host.reachable) for host in hosts.inventory.hosts()] == [("h1", True), ("h2", True)]
    assert hosts.inventory.vms() == [samples.vm()]
    assert hosts.inventory.vm("web1").host == "h1"


async def test_a_host_that_does_not_answer_says_why(hosts: Hosts) -> None:
    hosts.h2.down = True
    await hosts.inventory.refresh()
    assert not hosts.inventory.host("h2").reachable
    assert "Connection refused" in hosts.inventory.host("h2").reason
    with pytest.raises(Unreachable, match=r"h2 does not answer.*Connection refused"):
        hosts.inventory.answering("h2")


async def test_the_vms_of_a_host_that_fell_silent_are_unknown(hosts: Hosts) -> None:
    await hosts.inventory.refresh()
    hosts.h1.down = True
    await hosts.inventory.refresh()
    assert [vm.state for vm in hosts.inventory.vms()] == [VmState.UNKNOWN]
    assert hosts.inventory.host("h1").info is not None


async def test_a_silent_host_delays_no_later_look(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    await hosts.inventory.refresh()
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)
    hosts.h2.slow = True
    await hosts.inventory.refresh()
    assert "no answer within" in hosts.inventory.host("h2").reason
    before = hosts.h2.asked
    await hosts.inventory.refresh()
    assert hosts.h2.asked == before


async def test_a_host_that_comes_back_is_found_by_the_poll(hosts: Hosts) -> None:
    await hosts.inventory.refresh()
    hosts.h1.down = True
    await hosts.inventory.refresh()
    polling = asyncio.create_task(hosts.inventory.run())
    hosts.h1.down = False
    await eventually(lambda: hosts.inventory.host("h1").reachable)
    polling.cancel()
    assert hosts.inventory.vms() == [samples.vm()]


async def test_who_looks_at_the_same_time_shares_one_question(hosts: Hosts) -> None:
    await asyncio.gather(*(hosts.inventory.refresh() for _ in range(20)))
    assert hosts.h1.asked == 2  # the host and its VMs, once each


async def test_a_vm_not_found_while_a_host_is_silent_may_be_there(hosts: Hosts) -> None:
    hosts.h2.down = True
    await hosts.inventory.refresh()
    with pytest.raises(NotFound) as caught:
        hosts.inventory.vm("db1")
    assert "h2 does not answer" in caught.value.hint


async def test_a_host_that_is_not_there_brings_those_that_are(hosts: Hosts) -> None:
    with pytest.raises(NotFound) as caught:
        hosts.inventory.host("h3")
    assert caught.value.hint == "there are: h1, h2"


async def test_a_fault_of_ours_does_not_end_the_polling(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def planted() -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(hosts.h1, "host", planted)
    polling = asyncio.create_task(hosts.inventory.run())
    await eventually(lambda: hosts.h2.asked > 4)
    polling.cancel()
    assert "planted" in caplog.text
    assert hosts.inventory.host("h2").reachable


async def test_who_asks_while_a_host_is_removed_goes_on(hosts: Hosts) -> None:
    hosts.h2.slow = True
    asking = [asyncio.create_task(hosts.inventory.refresh()) for _ in range(2)]
    await eventually(lambda: hosts.h1.asked > 0)
    await hosts.inventory.remove("h2")
    await asyncio.gather(*asking)
    assert [host.name for host in hosts.inventory.hosts()] == ["h1"]


async def test_the_vms_of_a_host_that_was_removed_are_named_no_more(hosts: Hosts) -> None:
    await hosts.inventory.refresh()
    await hosts.inventory.remove("h1")
    with pytest.raises(NotFound, match="web1"):
        hosts.inventory.vm("web1")
