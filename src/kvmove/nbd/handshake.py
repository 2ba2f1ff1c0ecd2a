"""The server's side of the fixed newstyle handshake: bytes in, bytes out. PURE.

    state     event                              next      answer
    FLAGS     client flags, known                OPTIONS   -
    OPTIONS   GO, our name                       READY     INFO export, INFO block size, ACK
    OPTIONS   INFO, our name                     OPTIONS   the same
    OPTIONS   GO or INFO, another name           OPTIONS   ERR_UNKNOWN
    OPTIONS   EXPORT_NAME, our name              READY     size, flags, 124 zeroes unless NO_ZEROES
    OPTIONS   LIST                               OPTIONS   SERVER name, ACK
    OPTIONS   ABORT                              ENDED     ACK
    OPTIONS   anything else                      OPTIONS   ERR_UNSUP (structured replies and extended headers too)
    any       broken, too long or too many       -         ProtocolError

Invariant: no more than one option (8 KiB) is held while waiting for more. Bytes that follow the last option belong
to the transmission and are handed on as `rest`. Does not wait and knows no clock: the server bounds the time.
"""

from enum import Enum, auto

from kvmove.nbd.protocol import (
    CLIENT_FLAGS,
    EXPORT_REPLY,
    GREETING,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    INIT_MAGIC,
    MAX_OPTION,
    MAX_OPTIONS,
    MAX_PAYLOAD,
    MIN_BLOCK,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    PREFERRED_BLOCK,
    Export,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
    ProtocolError,
)


class HandshakeState(Enum):
    FLAGS = auto()
    OPTIONS = auto()
    READY = auto()
    ENDED = auto()


_OURS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES


class Handshake:
    """One negotiation for `export`. Send `greeting()`, then each answer of `receive()`, until `state` is final."""

    def __init__(self, export: Export) -> None:
        self.state = HandshakeState.FLAGS
        self.rest = b""
        self._export = export
        self._pending = bytearray()
        self._zeroes = bytes(124)
        self._options = 0

    def greeting(self) -> bytes:
        return GREETING.pack(INIT_MAGIC, OPTION_MAGIC, _OURS)

    def receive(self, data: bytes) -> bytes:
        """Take what came in and return what to send.

        :raise ProtocolError: the client broke the protocol; close the connection.
        """
        self._pending += data
        answer = bytearray()
        while (step := self._step()) is not None:
            answer += step
        if self.state is HandshakeState.READY:
            self.rest += bytes(self._pending)
            self._pending.clear()
        return bytes(answer)

    def _step(self) -> bytes | None:
        """Consume one whole message; None when there is none, or nothing more is to be read."""
        if self.state is HandshakeState.FLAGS:
            return self._take_flags()
        if self.state is HandshakeState.OPTIONS:
            return self._take_option()
        return None

    def _take_flags(self) -> bytes | None:
        if len(self._pending) < CLIENT_FLAGS.size:
            return None
        (flags,) = CLIENT_FLAGS.unpack_from(self._pending)
        # int: inverting an IntFlag leaves out the bits that it has no name for
        if flags & ~int(_OURS) or not flags & HandshakeFlag.FIXED_NEWSTYLE:
            raise ProtocolError(f"the NBD client sent unknown handshake flags {flags:#x}")
        if flags & HandshakeFlag.NO_ZEROES:
            self._zeroes = b""
        del self._pending[: CLIENT_FLAGS.size]
        self.state = HandshakeState.OPTIONS
        return b""

    def _take_option(self) -> bytes | None:
        if len(self._pending) < OPTION.size:
            return None
        magic, option, length = OPTION.unpack_from(self._pending)
        if magic != OPTION_MAGIC:
            raise ProtocolError("the NBD client sent something that is no option")
        if length > MAX_OPTION:
            raise ProtocolError(f"the NBD client sent an option of {length} bytes; {MAX_OPTION} are allowed")
        end = OPTION.size + length
        if len(self._pending) < end:
            return None
        data = bytes(self._pending[OPTION.size : end])
        del self._pending[:end]
        self._options += 1
        if self._options > MAX_OPTIONS:
            raise ProtocolError(f"the NBD client sent more than {MAX_OPTIONS} options")
        return self._answer(option, data)

    def _answer(self, option: int, data: bytes) -> bytes:
        match option:
            case Option.EXPORT_NAME:
                return self._answer_export_name(data)
            case Option.ABORT:
                self.state = HandshakeState.ENDED
                return _reply(option, OptionReply.ACK)
            case Option.LIST:
                return self._answer_list(data)
            case Option.INFO | Option.GO:
                return self._answer_info(option, data)
            case _:
                return _reply(option, OptionReply.ERR_UNSUP)

    def _answer_export_name(self, data: bytes) -> bytes:
        if data != self._export.name.encode():
            raise ProtocolError("the NBD client asked for an export that is not offered")  # this option has no error
        self.state = HandshakeState.READY
        return EXPORT_REPLY.pack(self._export.size, self._export.flags) + self._zeroes

    def _answer_list(self, data: bytes) -> bytes:
        if data:
            return _reply(Option.LIST, OptionReply.ERR_INVALID)
        name = self._export.name.encode()
        entry = len(name).to_bytes(4, "big") + name
        return _reply(Option.LIST, OptionReply.SERVER, entry) + _reply(Option.LIST, OptionReply.ACK)

    def _answer_info(self, option: int, data: bytes) -> bytes:
        name = _name_of_info_request(data)
        if name is None:
            return _reply(option, OptionReply.ERR_INVALID)
        if name != self._export.name.encode():
            return _reply(option, OptionReply.ERR_UNKNOWN)
        if option == Option.GO:
            self.state = HandshakeState.READY
        export = INFO_EXPORT.pack(Info.EXPORT, self._export.size, self._export.flags)
        blocks = INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, MIN_BLOCK, PREFERRED_BLOCK, MAX_PAYLOAD)
        return (
            _reply(option, OptionReply.INFO, export)
            + _reply(option, OptionReply.INFO, blocks)
            + _reply(option, OptionReply.ACK)
        )


def _name_of_info_request(data: bytes) -> bytes | None:
    """The export name in the data of GO or INFO; None when the data is not name and info requests to the byte."""
    if len(data) < 6:
        return None
    length = int.from_bytes(data[:4], "big")
    requests = data[4 + length :]
    if len(requests) < 2 or len(requests) != 2 + 2 * int.from_bytes(requests[:2], "big"):
        return None
    return data[4 : 4 + length]


def _reply(option: int, kind: OptionReply, data: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data
