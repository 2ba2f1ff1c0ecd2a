"""Names of tap devices: found again after a restart, and nobody else's."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.agent.taps import MOST_NICS, require_bridge, tap_name, tap_names
from kvmove.errors import CheckFailed
from kvmove.model.vm import NicDefinition, VmDefinition

NUMBERS = st.integers(0, MOST_NICS - 1)


@given(st.uuids(), NUMBERS)
def test_a_name_fits_into_what_linux_allows(vm: UUID, number: int) -> None:
    name = tap_name(vm, number)
    assert len(name) <= 15
    assert name.isalnum()
    assert name == tap_name(vm, number)


@given(st.lists(st.tuples(st.uuids(), NUMBERS), unique=True))
def test_no_two_cards_have_the_same_tap(cards: list[tuple[UUID, int]]) -> None:
    assert len({tap_name(*card) for card in cards}) == len(cards)


def test_uuids_that_count_up_have_different_taps() -> None:
    assert len({tap_name(UUID(int=number), 0) for number in range(1000)}) == 1000


def test_every_card_of_a_definition_has_a_tap() -> None:
    nics = tuple(NicDefinition(name=f"lan{n}", bridge="br0", mac=f"52:54:00:00:00:{n:02x}") for n in range(MOST_NICS))
    definition = VmDefinition(name="web", uuid=UUID(int=7), memory=1 << 20, nics=nics)
    names = tap_names(definition)
    assert list(names) == [nic.name for nic in nics]
    assert set(names.values()) == {tap_name(definition.uuid, n) for n in range(MOST_NICS)}


def test_a_bridge_that_is_not_there_is_said_with_how_to_make_it() -> None:
    nic = NicDefinition(name="lan", bridge="no-bridge-here", mac="52:54:00:00:00:01")
    with pytest.raises(CheckFailed, match="no bridge no-bridge-here") as caught:
        require_bridge(nic)
    assert "ip link add no-bridge-here type bridge" in caught.value.hint
