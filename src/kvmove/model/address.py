"""Where a party listens: `host:port`. Pure."""

from typing import Annotated

from pydantic import AfterValidator


def split_address(address: str) -> tuple[str, int]:
    """`10.0.0.1:7441` or `[::1]:7441` as host and port.

    :raise ValueError: it is not `host:port`.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{address!r} is not an address; write for example 10.0.0.1:7441")
    return host.strip("[]"), int(port)


def _address(text: str) -> str:
    split_address(text)
    return text


Address = Annotated[str, AfterValidator(_address)]
"""`host:port`, checked and otherwise as written."""
