"""The payload of a DATA_ZSTD frame: the data's length (4 bytes, big-endian), then one zstd frame. No I/O.

Invariant: unpacking takes no more memory than the length that was declared, which is bounded, and zstd's window, which
is bounded too, whatever the bytes say.
"""

from __future__ import annotations

import struct
import sys

from kvmove.wire.frames import MAX_PAYLOAD, FrameError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LENGTH = struct.Struct("!I")

LEVEL = 1
"""zstd's: of the levels that keep up with a 1 Gbit/s wire on one processor, none makes data notably smaller."""

WINDOW_LOG = 20
"""2 to the power of it, in bytes: MAX_PAYLOAD. What zstd looks back, on either side."""


class Packer:
    """Compresses one payload after the other. Not for several threads at once."""

    def __init__(self) -> None:
        self._zstd = zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: LEVEL,
                zstd.CompressionParameter.window_log: WINDOW_LOG,
                zstd.CompressionParameter.checksum_flag: 0,  # TCP and TLS see to that
            }
        )

    def pack(self, data: memoryview) -> bytes:
        """The payload for `data`, of at most MAX_PAYLOAD bytes; it may be longer than the data."""
        return LENGTH.pack(len(data)) + self._zstd.compress(data, mode=zstd.ZstdCompressor.FLUSH_FRAME)


def declared_length(payload: memoryview) -> int:
    """Bytes of the data in `payload`.

    :raise FrameError: none, or more than may be.
    """
    if len(payload) <= LENGTH.size:
        raise FrameError("a compressed frame without data")
    (length,) = LENGTH.unpack_from(payload)
    if not 0 < length <= MAX_PAYLOAD:
        raise FrameError(f"a compressed frame of {length} bytes")
    return int(length)


def unpack(payload: memoryview) -> bytes:
    """The data in `payload`, exactly as long as declared.

    :raise FrameError: it is anything else.
    """
    length = declared_length(payload)
    unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    try:
        data = unpacker.decompress(payload[LENGTH.size :], max_length=length)
        # A frame's end may take one more call once all of its data is out.
        more = b"" if unpacker.eof else unpacker.decompress(b"", max_length=1)
    except zstd.ZstdError as error:
        raise FrameError(f"a compressed frame that is none: {error}") from error
    if len(data) != length or more or not unpacker.eof or unpacker.unused_data:
        raise FrameError(f"a compressed frame holds other than the {length} bytes that it declares")
    return data
