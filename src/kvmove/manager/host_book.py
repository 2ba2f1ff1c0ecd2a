"""Hosts that an operator adds: invited with a token, joined with a certificate, removed with its revocation.

Invariants: an invitation is good once, for one host, until it ends. A host that joined is on disk and in the inventory;
one that is removed owns no VM, is part of no move, and its certificates count no more. Hosts of manager.toml stay with
that file.
"""

import asyncio
import time
from datetime import UTC, datetime
from ipaddress import ip_address

from kvmove.errors import Busy, CheckFailed, InvalidInput, NotAllowed
from kvmove.manager.access_store import AccessStore, digest, new_secret
from kvmove.manager.certificates import Certificates
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.model.access import Certified, HostInvitation, HostRemoved, JoinRequest, NewHost
from kvmove.model.address import split_address
from kvmove.model.join_token import JoinToken
from kvmove.model.move import HostRef
from kvmove.pki.authority import requested_key
from kvmove.pki.identity import Identity, Role, check_name
from kvmove.pki.renewal import fingerprint
from kvmove.registry.interface import Registry

INVITATION_SECONDS = 3600.0


class HostBook:
    """The hosts in `store`, in step with `inventory`. `listen` is where this manager listens."""

    def __init__(self, store: AccessStore, inventory: Inventory, certificates: Certificates, listen: str) -> None:
        self._store = store
        self._inventory = inventory
        self._certificates = certificates
        self._listen = listen
        self._fixed = {host.name for host in inventory.hosts()}
        self._changing = asyncio.Lock()
        for host in store.hosts():
            if host.name not in self._fixed:
                inventory.add(host)

    async def invite(self, new: NewHost) -> HostInvitation:
        """What lets the host join. One that is invited already gets another token, and the one before counts no more.

        :raise Busy: it has joined, with a certificate that counts, or is listed in manager.toml.
        :raise InvalidInput: its name cannot be a party's, or nobody could reach this manager at its address.
        :raise CheckFailed: the authority is not on this machine.
        """
        check_name(Identity(Role.AGENT, new.name))
        address = self._address(new)
        async with self._changing:
            await self._refuse_known(new.name)
            secret, expires = new_secret(), time.time() + INVITATION_SECONDS
            authority = fingerprint(self._certificates.own_authority())
            host = HostRef(name=new.name, control=new.control)
            await asyncio.to_thread(self._store.invite, host, digest(secret), expires)
        token = JoinToken(
            name=new.name, control=new.control, manager=f"https://{address}", authority=authority, secret=secret
        )
        until = datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
        return HostInvitation(name=new.name, control=new.control, token=token.text(), expires=until)

    async def join(self, asked: JoinRequest) -> Certified:
        """The certificate of the host whose invitation this is; it is in the inventory from now on.

        :raise NotAllowed: the invitation is unknown, used or too old.
        :raise InvalidInput: the certificate request is none of ours; the invitation is good for another try.
        """
        requested_key(asked.request)
        async with self._changing:
            host = await asyncio.to_thread(self._store.use_invitation, digest(asked.secret), time.time())
            if host is None:
                raise NotAllowed(
                    "the token is not known here: it was used, has run out, or another was made after it",
                    hint="kvmove host add makes another",
                )
            await self._inventory.remove(host.name)
            self._inventory.add(host)
        return await self._certificates.certify(asked.request, Identity(Role.AGENT, host.name))

    async def remove(self, name: str, registry: Registry, book: TaskBook) -> HostRemoved:
        """Forget a host and revoke its certificates.

        :raise NotFound: no such host.
        :raise CheckFailed: VMs are there, a move has to do with it, or it is listed in manager.toml.
        :raise Unreachable: the registry does not answer, so that nobody knows.
        """
        async with self._changing:
            if not await asyncio.to_thread(self._store.is_invited, name):
                self._inventory.host(name)
            if name in self._fixed:
                raise CheckFailed(
                    f"{name} is listed in manager.toml",
                    hint=f"take it out there and restart the manager, then: kvmove cluster revoke {name}",
                )
            await self._refuse_used(name, registry, book)
            revoked = await self._certificates.revoke(Identity(Role.AGENT, name))
            await self._inventory.remove(name)
            await asyncio.to_thread(self._store.delete_host, name)
        return HostRemoved(name=name, revoked=revoked)

    async def _refuse_known(self, name: str) -> None:
        if name in self._fixed:
            raise Busy(f"{name} is listed in manager.toml", hint="give it its certificate with kvmove pki issue")
        issued = await self._certificates.all()
        has_certificate = any(it.name == name and it.role == Role.AGENT and not it.revoked for it in issued)
        if has_certificate and name in {host.name for host in self._inventory.hosts()}:
            raise Busy(
                f"{name} has joined already",
                hint=f"if it lost its certificate: kvmove cluster revoke {name}, then add it again",
            )

    async def _refuse_used(self, name: str, registry: Registry, book: TaskBook) -> None:
        moving = [task.vm for task in book.unended() if name in (task.source, task.destination)]
        owned = [it.vm for it in await registry.list() if name in (it.owner, it.destination)]
        names = {vm.definition.uuid: vm.definition.name for vm in self._inventory.vms()}
        there = sorted({*moving, *(names.get(vm, str(vm)) for vm in owned)})
        if there:
            raise CheckFailed(
                f"{name} has VMs or takes part in their moves: {', '.join(there)}",
                hint="move them away first, or delete them",
            )

    def _address(self, new: NewHost) -> str:
        address = new.manager or self._listen
        host, _ = split_address(address)
        try:
            nowhere = ip_address(host).is_unspecified
        except ValueError:
            nowhere = False
        if nowhere:
            raise InvalidInput(
                f"{address} is no address at which {new.name} could reach this manager",
                hint="name one with --manager HOST:PORT",
            )
        return address
