"""What a lab may be, and who gets which address in it."""

import pytest
from pydantic import ValidationError

from kvmove.agent.config import LONGEST_RUN
from kvmove.lab import addresses
from kvmove.lab.folders import LabFolders
from kvmove.lab.spec import LabSpec


@pytest.mark.parametrize("name", ["../x", "a/b", "", "UP", "x" * 17, "-a"])
def test_a_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        LabSpec(name=name)


@pytest.mark.parametrize("hosts", [("h1", "h1"), ("world", "h1"), (), ("h_1",), ("h1" * 7,)])
def test_hosts_need_plain_names_of_their_own(hosts: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        LabSpec(hosts=hosts)


def test_sockets_of_the_longest_names_fit_into_a_socket_address() -> None:
    assert len(str(LabFolders("x" * 16).host_run("h" * 12))) <= LONGEST_RUN


def test_no_address_is_given_twice() -> None:
    given = [addresses.world_management(), addresses.world_guests()]
    given += [addresses.management(index).address for index in range(16)]
    given += [addresses.migration(nic, index).address for index in range(16) for nic in range(8)]
    given += [addresses.guest(number) for number in range(16)]
    assert len(set(given)) == len(given)
