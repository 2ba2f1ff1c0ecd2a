"""Run inside a lab's host: whether the party of a folder is let in, by the manager, by an agent, at its data port.

    python access_probe.py PKI MANAGER AGENT-NAME AGENT-CONTROL DATA-HOST DATA-PORT

Prints JSON: each door with "open", or with why not.
"""

import asyncio
import json
import socket
import ssl
import sys
from pathlib import Path
from uuid import UUID

from kvmove.client.http import HttpClient
from kvmove.errors import KvmoveError, NotFound
from kvmove.pki.contexts import client_context
from kvmove.pki.identity import Identity, Role
from kvmove.registry.remote import RemoteRegistry

OPEN = "open"


async def at_manager(pki: Path, url: str) -> str:
    registry = RemoteRegistry(url, pki)
    try:
        await registry.get(UUID(int=1))
        return OPEN
    except KvmoveError as error:
        return error.detail
    finally:
        await registry.close()


async def at_agent(pki: Path, agent: Identity, control: str) -> str:
    """It knows no such move, and says so to whom it lets in."""
    async with HttpClient.over_tls(control, pki, agent) as http:
        try:
            await http.call("GET", "/v1/incoming/none")
            return OPEN
        except NotFound:
            return OPEN
        except KvmoveError as error:
            return error.detail


def at_data_port(pki: Path, agent: Identity, address: tuple[str, int]) -> str:
    """Who is let in is waited for; who is not is told when it reads."""
    with socket.create_connection(address, timeout=10) as raw:
        try:
            with client_context(pki).wrap_socket(raw, server_hostname=agent.dns_name) as tls:
                tls.settimeout(1)
                return "closed" if not tls.recv(1) else OPEN
        except TimeoutError:
            return OPEN
        except ssl.SSLError as error:
            return str(error.reason)


def main() -> None:
    pki, agent = Path(sys.argv[1]), Identity(Role.AGENT, sys.argv[3])
    doors = {
        "manager": asyncio.run(at_manager(pki, sys.argv[2])),
        "agent": asyncio.run(at_agent(pki, agent, sys.argv[4])),
        "data": at_data_port(pki, agent, (sys.argv[5], int(sys.argv[6]))),
    }
    sys.stdout.write(json.dumps(doors))


if __name__ == "__main__":
    main()
