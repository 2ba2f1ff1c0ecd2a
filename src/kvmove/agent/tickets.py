"""A move's ticket as the manager sends it: the secret by which a stream proves what it belongs to (wire.handshake)."""

from kvmove.errors import InvalidInput

LEAST_BYTES = 16


def ticket_of(text: str) -> bytes:
    """:raise InvalidInput: it is not hexadecimal, or so short that it could be guessed."""
    try:
        ticket = bytes.fromhex(text)
    except ValueError as error:
        raise InvalidInput("the ticket is not hexadecimal") from error
    if len(ticket) < LEAST_BYTES:
        raise InvalidInput(f"the ticket has {len(ticket)} bytes; {LEAST_BYTES} are the least")
    return ticket
