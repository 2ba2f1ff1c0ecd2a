"""The manager's two doors: TCP with TLS for the network, a Unix socket for root on this machine.

Parties show a certificate, users a token, and a host that joins has neither yet: the gate judges them all.

Invariant: the socket file is never open to others, not for an instant, and once it is there it answers. Two managers
never share a state folder (`hold`) or a socket.
"""

import asyncio
import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from kvmove.errors import Busy
from kvmove.manager.peer import IdentifyingProtocol
from kvmove.model.address import split_address
from kvmove.pki.contexts import live_server_context
from kvmove.pki.peer import KEEP_ALIVE

STOP_SECONDS = 5
"""How long a request under way may take to end when the manager stops."""


class Listener(uvicorn.Server):
    """uvicorn on one listening socket; signals are not its business. `pki` None: no TLS, for the Unix socket.

    :raise NotFound, NotAllowed: the certificates in `pki` are missing or broken.
    """

    def __init__(self, app: FastAPI, door: socket.socket, pki: Path | None) -> None:
        tls = None if pki is None else live_server_context(pki, strangers=True)
        config = uvicorn.Config(
            app,
            http=IdentifyingProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(KEEP_ALIVE) + 10,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        super().__init__(config)
        self._door = door
        self.listening = asyncio.Event()

    async def run_until_stopped(self) -> None:
        """Serve until `stop` and until requests under way have ended."""
        await self.serve(sockets=[self._door])

    def stop(self) -> None:
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def tcp_door(address: str) -> socket.socket:
    """A listening TCP socket at `host:port`.

    :raise Busy: the address is taken, or is not one of this machine.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Busy(f"cannot listen on {address}: {error.strerror}", hint="see `listen` in manager.toml") from error


def unix_door(path: Path) -> socket.socket:
    """A listening Unix socket at `path`, mode 0600, there only once it listens; one of a dead manager is replaced.

    :raise Busy: another program listens there, or the path cannot be used.
    """
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unfinished = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_free(path)
        unfinished.unlink(missing_ok=True)
        door.bind(str(unfinished))
        unfinished.chmod(0o600)
        door.listen()
        unfinished.replace(path)
    except OSError as error:
        door.close()
        raise Busy(
            f"cannot listen on {path}: {error.strerror or error}", hint="see `socket` in manager.toml"
        ) from error
    except Busy:
        door.close()
        raise
    return door


def _check_free(path: Path) -> None:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise Busy(f"another program listens on {path}", hint="is a manager running already?")
    elif path.exists():
        raise Busy(f"cannot listen on {path}: there is a file that is no socket", hint="see `socket` in manager.toml")


@contextmanager
def hold(state: Path) -> Iterator[None]:
    """Have the state folder to oneself, made (0700) when it is not there.

    :raise Busy: another manager has it.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another manager uses {state}", hint="end it first") from error
        yield
