"""An NBD client in literal bytes, so that our codecs are not tested against themselves."""

import socket
import struct
from pathlib import Path

IHAVEOPT = b"IHAVEOPT"
GO = 7
READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6


def option(number: int, data: bytes = b"") -> bytes:
    return IHAVEOPT + struct.pack(">II", number, len(data)) + data


def info_request(name: bytes, *infos: int) -> bytes:
    return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def request(command: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)


def write(cookie: int, offset: int, payload: bytes) -> bytes:
    return request(WRITE, cookie, offset, len(payload)) + payload


def receive(client: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or fewer when the server closed."""
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def cookies(client: socket.socket, count: int) -> list[int]:
    """The cookies of the next `count` replies, all of which must be successes."""
    replies = [struct.unpack(">IIQ", receive(client, 16)) for _ in range(count)]
    assert all((magic, error) == (0x67446698, 0) for magic, error, _ in replies)
    return [cookie for _, _, cookie in replies]


def connect(path: Path) -> socket.socket:
    """A bare connection that has read the greeting and sent the client flags."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    assert receive(client, 18) == b"NBDMAGICIHAVEOPT\x00\x03"
    client.sendall(b"\x00\x00\x00\x03")
    return client


def transmit(path: Path, name: bytes) -> socket.socket:
    """A connection that is in the transmission phase."""
    client = connect(path)
    client.sendall(option(GO, info_request(name, 3)))
    for length in (12, 14, 0):
        assert len(receive(client, 20 + length)) == 20 + length
    return client
