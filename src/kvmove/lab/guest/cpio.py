"""Writes the archive that a kernel unpacks as its first root: cpio, format newc (Linux Documentation/driver-
api/early-userspace).

Pure: entries in, bytes out, and the same entries always make the same bytes (no times, no owners).
"""

import stat
from collections.abc import Sequence
from typing import NamedTuple, Self


class Entry(NamedTuple):
    """A file, folder or device node of the archive."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def folder(cls, name: str) -> Self:
        return cls(name, stat.S_IFDIR | 0o755)

    @classmethod
    def file(cls, name: str, content: bytes, *, executable: bool = False) -> Self:
        return cls(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    @classmethod
    def console(cls, name: str) -> Self:
        """The console's character device, which the kernel opens for init before anything is mounted."""
        return cls(name, stat.S_IFCHR | 0o600, device=(5, 1))


def archive(entries: Sequence[Entry]) -> bytes:
    """All entries and the trailer, padded to whole 512-byte records."""
    parts = [_encode(number, entry) for number, entry in enumerate(entries, start=1)]
    parts.append(_encode(0, Entry("TRAILER!!!", 0)))
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % 512)


def _encode(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + entry.content + bytes(-len(entry.content) % 4)
