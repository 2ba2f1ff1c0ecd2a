"""A door on this machine to a lab's manager, so that a browser here can open its page.

The manager listens inside the lab's world, where no browser is. A socket that listens here is handed to a process in
the world's network, which passes bytes on to the manager's TLS door; it reads none of them. It is never the manager's
Unix socket, at which whoever comes is root.

Run as `python -m kvmove.lab.page_door FD ADDRESS`.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kvmove.errors import Busy
from kvmove.lab import addresses
from kvmove.lab.commands import in_network
from kvmove.lab.lab import Lab
from kvmove.model.address import split_address

PIECE = 64 * 1024


@contextmanager
def page_door(lab: Lab, listen: str) -> Iterator[str]:
    """The address of the lab's page on this machine, while the context lasts; `listen` is `host:port`, port 0 any.

    :raise Busy: the address is taken.
    """
    try:
        door = socket.create_server(split_address(listen))
    except OSError as error:
        raise Busy(f"cannot listen on {listen}: {error.strerror}", hint="take another --listen") from error
    with door:
        manager = f"{addresses.world_management()}:{addresses.MANAGER_PORT}"
        argv = [sys.executable, "-m", "kvmove.lab.page_door", str(door.fileno()), manager]
        passing = subprocess.Popen(in_network(lab.world.init, argv), pass_fds=[door.fileno()])
        host, port = door.getsockname()[:2]
        try:
            yield f"https://{host}:{port}/"
        finally:
            passing.terminate()
            passing.wait()


async def pass_on(door: socket.socket, address: str) -> None:
    """Connect each who comes to `door` with `address`, for ever."""
    host, port = split_address(address)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(host, port)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        writer.close()

    async with await asyncio.start_server(serve, sock=door) as server:
        await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()


def main(fd: str, address: str) -> None:
    asyncio.run(pass_on(socket.socket(fileno=int(fd)), address))


if __name__ == "__main__":
    main(*sys.argv[1:])
