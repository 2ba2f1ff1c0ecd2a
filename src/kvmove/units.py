"""Sizes, rates and times as people write and read them. Pure.

Sizes are in bytes and powers of 1024 (`512MiB`); rates are in bytes per second inside the program, and people
write them either in bits (`1Gbit`, powers of 1000) or in bytes (`200MiB`) per second.
"""

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(bit|i?b)(?:/s|ps)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Turn `64MiB`, `1G` or `4096` into bytes.

    :raise ValueError: the text is no size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 512MiB or 4GiB")
    size = float(match[1]) * 1024 ** _POWER[match[2].lower()]
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_rate(text: str) -> int:
    """Turn `1Gbit`, `800Mbit/s` or `200MiB` into bytes per second.

    :raise ValueError: the text is no rate.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a rate; write for example 1Gbit or 200MiB")
    power = _POWER[match[2].lower()]
    if match[3].lower() == "bit":
        return int(float(match[1]) * 1000**power / 8)
    return int(float(match[1]) * 1024**power)


def format_size(size: float) -> str:
    """Bytes for people: `1.5 GiB`; whole bytes below 1 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_rate(bytes_per_second: float) -> str:
    """A rate for people, in bytes per second: `117.5 MiB/s`."""
    return f"{format_size(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """A time for people: `340 ms`, `12.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"
