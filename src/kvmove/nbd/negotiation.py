"""The client's side of the fixed newstyle handshake. PURE: bytes come and go through two functions.

Asked for, in this order: structured replies, meta contexts, the export (GO). What the server does not know it says,
and the answer tells what was agreed. Invariant: exactly the handshake's bytes are read, so the transmission begins at
the next one; nothing longer than a server of ours or QEMU sends is waited for.

Not done here: what to do without something that was not agreed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kvmove.nbd.protocol import (
    CLIENT_FLAGS,
    CONTEXT_ID,
    GREETING,
    INFO_EXPORT,
    INIT_MAGIC,
    MAX_OPTION,
    MAX_OPTIONS,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    ExportFlag,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
    ProtocolError,
)

_ERROR = 2**31
"""Bit of the option replies that tell an error."""

Receive = Callable[[int], bytes]
"""Exactly so many bytes of the connection, or an exception."""
Send = Callable[[bytes], None]


class Agreement(NamedTuple):
    """What both sides agreed on. `size` in bytes; `contexts` has the names of the meta contexts by their numbers."""

    size: int
    flags: ExportFlag
    has_chunks: bool
    contexts: dict[int, str]


def negotiate(receive: Receive, send: Send, export: str, contexts: Sequence[str]) -> Agreement:
    """Come to an agreement about `export`; `contexts` are asked for if there are structured replies.

    :raise ProtocolError: the server has no such export, refuses it, or broke the protocol; close the connection.
    """
    _greet(receive, send)
    name = export.encode()
    send(encode_option(Option.STRUCTURED_REPLY))
    has_chunks = all(kind < _ERROR for kind, _ in _answers(receive, Option.STRUCTURED_REPLY))
    agreed: dict[int, str] = {}
    if has_chunks and contexts:
        send(encode_option(Option.SET_META_CONTEXT, encode_contexts(name, contexts)))
        for kind, data in _answers(receive, Option.SET_META_CONTEXT):
            if kind == OptionReply.META_CONTEXT and len(data) > CONTEXT_ID.size:
                agreed[CONTEXT_ID.unpack_from(data)[0]] = data[CONTEXT_ID.size :].decode(errors="replace")
    send(encode_option(Option.GO, _text(name) + bytes(2)))  # no info is asked for: then any alignment is allowed
    size, flags = _take_export(receive, export)
    return Agreement(size, flags, has_chunks, agreed)


def encode_option(option: Option, data: bytes = b"") -> bytes:
    return OPTION.pack(OPTION_MAGIC, option, len(data)) + data


def encode_contexts(export: bytes, contexts: Sequence[str]) -> bytes:
    """The data of SET_META_CONTEXT."""
    queries = b"".join(_text(context.encode()) for context in contexts)
    return _text(export) + len(contexts).to_bytes(4, "big") + queries


def _greet(receive: Receive, send: Send) -> None:
    magic, option_magic, flags = GREETING.unpack(receive(GREETING.size))
    if (magic, option_magic) != (INIT_MAGIC, OPTION_MAGIC) or not flags & HandshakeFlag.FIXED_NEWSTYLE:
        raise ProtocolError("the NBD server does not greet as one")
    send(CLIENT_FLAGS.pack(flags & int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)))


def _take_export(receive: Receive, export: str) -> tuple[int, ExportFlag]:
    found = None
    for kind, data in _answers(receive, Option.GO):
        if kind >= _ERROR:
            reason = data.decode(errors="replace") or f"error {kind - _ERROR}"
            raise ProtocolError(f"the NBD server does not give the export {export!r}: {reason}")
        if kind == OptionReply.INFO and len(data) == INFO_EXPORT.size and data[:2] == bytes((0, Info.EXPORT)):
            _, size, flags = INFO_EXPORT.unpack(data)
            found = size, ExportFlag(flags)
    if found is None:
        raise ProtocolError(f"the NBD server did not describe the export {export!r}")
    return found


def _answers(receive: Receive, asked: Option) -> Iterator[tuple[int, bytes]]:
    """The replies to one option, up to the one that ends it (ACK or an error)."""
    for _ in range(MAX_OPTIONS):
        magic, option, kind, length = OPTION_REPLY.unpack(receive(OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC or option != asked or length > MAX_OPTION:
            raise ProtocolError("the NBD server's answer to an option is none")
        yield kind, receive(length)
        if kind == OptionReply.ACK or kind >= _ERROR:
            return
    raise ProtocolError(f"the NBD server has more than {MAX_OPTIONS} answers to one option")


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
