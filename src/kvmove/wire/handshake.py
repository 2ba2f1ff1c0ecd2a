"""How a data connection says what it is, before any frame. Pure.

    source                                     destination
    preamble "KVMOVE01"
    Hello {move, role, number, nic}        ->
                                           <-  Challenge {nonce}
    Proof {mac}                            ->
                                           <-  Welcome {} or Refusal {reason}

The ticket is a secret of one move, given to both hosts by the manager and never sent: the proof is
HMAC-SHA256(ticket, nonce | move | role | number | transport | attempt), so a proof is good for one connection, one role
and one kind of transport, and what was overheard cannot be used again. After Welcome a disk stream carries `frames`, a
memory channel `channel_frames`.

Each message is JSON with a length of 4 bytes before it, at most MAX_MESSAGE bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from kvmove.model.strict import Strict

PREAMBLE = b"KVMOVE01"
"""Says the protocol and its version; a TLS connection begins with 0x16 instead and says this inside."""

MAX_MESSAGE = 4096
NONCE_SIZE = 32
LENGTH = struct.Struct("!I")


class HandshakeError(ValueError):
    """The peer does not speak this protocol, or its proof is wrong."""


class StreamRole(StrEnum):
    DISK = "disk"
    MEMORY = "memory"


class Hello(Strict):
    """What a connection is for. `number` is the stream's number, or the channel's (0 is QEMU's main channel).

    A channel's connections count their attempts: a later one takes the place of an earlier one, never the other way.
    """

    kind: Literal["hello"] = "hello"
    move: Annotated[str, Field(max_length=64)]
    role: StreamRole
    number: Annotated[int, Field(ge=0, lt=2**32)]
    nic: Annotated[str, Field(max_length=64)] = ""
    attempt: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Challenge(Strict):
    kind: Literal["challenge"] = "challenge"
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Proof(Strict):
    kind: Literal["proof"] = "proof"
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Welcome(Strict):
    kind: Literal["welcome"] = "welcome"


class Refusal(Strict):
    kind: Literal["refusal"] = "refusal"
    reason: Annotated[str, Field(max_length=1024)]


Message = Hello | Challenge | Proof | Welcome | Refusal
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> bytes:
    """The message with its length before it."""
    body = message.model_dump_json().encode()
    return LENGTH.pack(len(body)) + body


def decode_length(header: bytes) -> int:
    """The length of the message that follows.

    :raise HandshakeError: it is longer than a message may be.
    """
    (length,) = LENGTH.unpack(header)
    if not 0 < length <= MAX_MESSAGE:
        raise HandshakeError(f"a handshake message of {length} bytes")
    return int(length)


def decode(body: bytes) -> Message:
    """:raise HandshakeError: the bytes are no message of this handshake."""
    try:
        return _MESSAGES.validate_python(json.loads(body), strict=False)
    except (ValidationError, ValueError, RecursionError) as error:
        raise HandshakeError("not a message of the handshake") from error


def proof(ticket: bytes, nonce: str, hello: Hello, *, encrypted: bool) -> Proof:
    """The proof that the sender of `hello` knows the move's ticket."""
    transport = "tls" if encrypted else "plain"
    text = "|".join((nonce, hello.move, hello.role, str(hello.number), transport, str(hello.attempt)))
    return Proof(mac=hmac.new(ticket, text.encode(), hashlib.sha256).hexdigest())


def proof_is_right(ticket: bytes, nonce: str, hello: Hello, given: Proof, *, encrypted: bool) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(proof(ticket, nonce, hello, encrypted=encrypted).mac, given.mac)
