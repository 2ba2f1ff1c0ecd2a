"""What is taken for a ticket."""

import pytest

from kvmove.agent.tickets import LEAST_BYTES, ticket_of
from kvmove.errors import InvalidInput


def test_a_secret_is_taken() -> None:
    assert ticket_of("0f" * LEAST_BYTES) == b"\x0f" * LEAST_BYTES


@pytest.mark.parametrize("text", ["", "00", "0f" * (LEAST_BYTES - 1), "no digits", "0" * (2 * LEAST_BYTES + 1)])
def test_what_could_be_guessed_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="ticket"):
        ticket_of(text)
