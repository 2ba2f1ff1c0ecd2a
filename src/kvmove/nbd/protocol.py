"""The NBD protocol's numbers and fixed layouts, as far as our two sides need them. PURE.

Source: the NBD project's `doc/proto.md`. Our server is a mirror's target for one QEMU, which only writes: fixed
newstyle negotiation, simple replies. Our client uses images through QEMU: structured replies and meta contexts too.
Extended headers and TLS are left out on purpose: the sockets are private Unix sockets of this host.
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple

from kvmove.errors import MoveFailed
from kvmove.units import KIB, MIB


class ProtocolError(MoveFailed):
    """The other side broke the protocol or a bound of ours; the connection must be closed, nothing of it is usable."""


GREETING = Struct(">8sQH")
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")
OPTION_REPLY = Struct(">QIII")
EXPORT_REPLY = Struct(">QH")
INFO_EXPORT = Struct(">HQH")
INFO_BLOCK_SIZE = Struct(">HIII")
REQUEST = Struct(">IHHQQI")
"""Magic, command flags, command, cookie, offset, length."""
SIMPLE_REPLY = Struct(">IIQ")
"""Magic, error, cookie."""
CHUNK = Struct(">IHHQI")
"""Of a structured reply: magic, flags, type, cookie, length of what follows."""
CHUNK_OFFSET = Struct(">Q")
HOLE_CHUNK = Struct(">QI")
"""Offset, length of zeroes that are not sent."""
ERROR_CHUNK = Struct(">IH")
"""Error, length of a message that follows."""
CONTEXT_ID = Struct(">I")
STATUS = Struct(">II")
"""Length, flags: one run of a block status."""

INIT_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF

MAX_OPTION = 8 * KIB
"""Longest option data that is read. An export name has 4096 bytes at most, OPT_GO adds a few info requests."""

MAX_OPTIONS = 32
"""Options in one negotiation. QEMU 7.2 sends two or three; an endless haggler is shut out."""

MAX_PAYLOAD = 32 * MIB
"""Longest write. The bound that every NBD implementation keeps; QEMU splits at what INFO_BLOCK_SIZE tells."""

MIN_BLOCK = 1
"""QEMU must send the guest's exact byte range. With 512 it would read the rest of a sector from the target first."""

PREFERRED_BLOCK = 4096


class HandshakeFlag(IntFlag):
    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class ExportFlag(IntFlag):
    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    """What was written and flushed over one connection is seen by, and flushed for, all."""


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 2**31 + 1
    ERR_INVALID = 2**31 + 3
    ERR_UNKNOWN = 2**31 + 6


class Info(IntEnum):
    EXPORT = 0
    BLOCK_SIZE = 3


# Plain integers, not an enumeration: they are compared for every request of the hot path.
COMMAND_READ = 0
COMMAND_WRITE = 1
COMMAND_DISCONNECT = 2
COMMAND_FLUSH = 3
COMMAND_TRIM = 4
COMMAND_WRITE_ZEROES = 6
COMMAND_BLOCK_STATUS = 7

COMMAND_FLAG_NO_HOLE = 2
COMMAND_FLAG_DF = 4
"""Of a read: all data in one chunk."""

CHUNK_FLAG_DONE = 1
CHUNK_NONE = 0
CHUNK_DATA = 1
CHUNK_HOLE = 2
CHUNK_STATUS = 5
CHUNK_IS_ERROR = 2**15
"""Bit of the types that tell an error."""

BASE_ALLOCATION = "base:allocation"
STATUS_ZERO = 2
"""Of base:allocation: the run reads as zeroes."""

ALLOCATION_DEPTH = "qemu:allocation-depth"
"""QEMU's: which image of a chain holds the run. 1 is the top image, 0 none of them (QEMU docs/interop/nbd.txt)."""


class Export(NamedTuple):
    """What the server offers: `size` in bytes; `offer_flush` whether QEMU shall send FLUSH at all."""

    name: str
    size: int
    offer_flush: bool = False

    @property
    def flags(self) -> ExportFlag:
        flags = ExportFlag.HAS_FLAGS | ExportFlag.SEND_FUA | ExportFlag.SEND_TRIM | ExportFlag.SEND_WRITE_ZEROES
        return flags | ExportFlag.SEND_FLUSH if self.offer_flush else flags
