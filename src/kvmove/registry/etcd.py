"""The engine for several managers, or for one that may be lost: an etcd cluster keeps the records.

    PREFIX/vm/UUID/owner     the record, as JSON
    PREFIX/released/UUID     the last epoch of a VM that was released, kept for good

Below `PREFIX/vm/UUID` there is room for what else belongs to a VM, and beside `vm` for what is no VM's.

Invariant: a change is one transaction that compares the modification revisions of both keys with those that were
read: the rules in `ownership` judged exactly what it replaces. No lease is behind it: a record stays until it is
changed. Every read is linearizable (etcd's default; a serializable one could come from a member that is cut off).

A change that got no answer is Unreachable and is not asked again here: asked again, it would find its own record in the
way and be taken for refused. See `settle` for following one.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

from kvmove.errors import Busy, Unreachable
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership
from kvmove.registry.etcd_gateway import EtcdGateway
from kvmove.registry.etcd_json import RANGE, TXN, WATCH, Json, below, damaged, decode, delete, encode, put, unchanged
from kvmove.registry.interface import Change, FullList

TIMEOUT = 4.0
"""Seconds that a call may take. Below what an agent waits for its manager, so that it hears the reason."""

SILENCE = 30.0
"""Seconds without a word after which a watch goes on at another member."""

WATCH_PAUSE = 0.5
_OWNER = "/owner"
Operations = list[Json]
Records = list[Ownership]
Changes = list[Change]


class _Stored(NamedTuple):
    """What the keys of a VM held at one moment. A `revision` is 0 where there is no key."""

    member: str
    record: Ownership | None
    record_revision: str
    last_epoch: int
    epoch_revision: str


class EtcdRegistry:
    """The registry in the etcd cluster whose members are at `endpoints`. It connects at its first call.

    A call that is cancelled may have taken effect, as may one that raised Unreachable.

    :param prefix: what our keys begin with: a slash first, none at the end. Two clusters of hosts need two prefixes.
    :param tls: our certificate and etcd's authority; None for endpoints over plain http.
    :param timeout: seconds that one call may take; then it is Unreachable.
    """

    def __init__(
        self, endpoints: Sequence[str], prefix: str, tls: ssl.SSLContext | None, *, timeout: float = TIMEOUT
    ) -> None:
        self._gateway = EtcdGateway(endpoints, tls, timeout=timeout)
        self._prefix = prefix
        self._owners = f"{prefix}/vm/"

    async def get(self, vm: UUID) -> Ownership | None:
        async with self._gateway.deadline():
            return (await self._load(vm)).record

    async def list(self) -> Records:
        return (await self._load_all()).records

    async def watch(self, after: int | None = None) -> AsyncGenerator[FullList | Change, None]:
        """See `interface.Watchable`. etcd's compaction is what it does not keep."""
        for member in itertools.cycle(self._gateway.members):
            try:
                if after is None:
                    everything = await self._load_all()
                    yield everything
                    after = everything.revision
                wanted = below(self._owners) | {"start_revision": str(after + 1)}
                stream = self._gateway.stream(member, WATCH, {"create_request": wanted}, silence=SILENCE)
                async with aclosing(stream) as answers:
                    async for answer in answers:
                        if answer.get("canceled"):
                            after = None
                            break
                        for change in self._changes(answer):
                            yield change
                            after = change.revision
            except Unreachable:
                if self._gateway.is_closed:
                    raise
                await asyncio.sleep(WATCH_PAUSE)

    async def _load_all(self) -> FullList:
        async with self._gateway.deadline():
            answer = await self._gateway.read(RANGE, below(self._owners))
        try:
            found = [(self._vm_of(pair), pair) for pair in answer.body.get("kvs", [])]
            records = [_record(vm, pair) for vm, pair in found if vm is not None]
            return FullList(records, int(answer.body["header"]["revision"]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(f"what etcd keeps below {self._owners}", error) from error

    def _changes(self, answer: Json) -> Changes:
        changes: Changes = []
        for event in answer.get("events", []):
            pair = event["kv"]
            if (vm := self._vm_of(pair)) is not None:
                record = None if event.get("type") == "DELETE" else _record(vm, pair)
                changes.append(Change(vm, record, int(pair["mod_revision"])))
        return changes

    def _vm_of(self, pair: Json) -> UUID | None:
        """The VM whose record a key holds; None for what else belongs to a VM."""
        key = decode(pair["key"]).removeprefix(self._owners)
        return UUID(key[: -len(_OWNER)]) if key.endswith(_OWNER) else None

    async def claim(self, vm: UUID, host: str) -> Ownership:
        return await self._store(vm, lambda now: ownership.claim(now.record, vm, host, now.last_epoch))

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        return await self._store(expected.vm, lambda now: ownership.compare_and_swap(now.record, expected, new))

    async def release(self, expected: Ownership) -> None:
        writes = [
            put(self._released_key(expected.vm), str(expected.epoch)),
            delete(self._owner_key(expected.vm)),
        ]

        def decide(now: _Stored) -> Operations:
            ownership.check_release(now.record, expected)
            return writes

        await self._change(expected.vm, decide)

    async def bring(self, vm: UUID, record: Ownership | None, last_epoch: int) -> None:
        """Put in what another engine keeps of a VM; nothing, when the very same is here.

        :raise Busy: something else is kept of it here.
        """

        def decide(now: _Stored) -> Operations:
            if (now.record, now.last_epoch) == (record, last_epoch):
                return []
            if now.record is not None or now.last_epoch:
                raise Busy(f"etcd has another record of VM {vm} already", hint="which registry is the newer one?")
            owner = [] if record is None else [put(self._owner_key(vm), record.model_dump_json())]
            return owner + ([put(self._released_key(vm), str(last_epoch))] if last_epoch else [])

        await self._change(vm, decide)

    async def close(self) -> None:
        await self._gateway.close()

    async def _store(self, vm: UUID, decide: Callable[[_Stored], Ownership]) -> Ownership:
        """Store the record that `decide` makes of what is stored, and give it."""
        decided: list[Ownership] = []

        def writes(now: _Stored) -> Operations:
            decided.append(decide(now))
            if decided[-1] == now.record:
                return []
            return [put(self._owner_key(vm), decided[-1].model_dump_json())]

        await self._change(vm, writes)
        return decided[-1]

    async def _change(self, vm: UUID, decide: Callable[[_Stored], Operations]) -> None:
        """Write what `decide` makes of what is stored, as one step; decide anew when another was quicker."""
        async with self._gateway.deadline():
            while True:
                now = await self._load(vm)
                as_read = [
                    unchanged(self._owner_key(vm), now.record_revision),
                    unchanged(self._released_key(vm), now.epoch_revision),
                ]
                body = {"compare": as_read, "success": decide(now)}
                answer = await self._gateway.change(now.member, TXN, body)
                if answer.get("succeeded") is True:
                    return

    async def _load(self, vm: UUID) -> _Stored:
        """Both keys at one moment. A transaction that only reads is linearizable as its reads are."""
        keys = [encode(self._owner_key(vm)), encode(self._released_key(vm))]
        reads = [{"request_range": {"key": key}} for key in keys]
        answer = await self._gateway.read(TXN, {"success": reads})
        try:
            ranges = [response["response_range"] for response in answer.body["responses"]]
            record, epoch = (found["kvs"][0] if "kvs" in found else None for found in ranges)
            return _Stored(
                member=answer.member,
                record=None if record is None else _record(vm, record),
                record_revision="0" if record is None else record["mod_revision"],
                last_epoch=0 if epoch is None else int(decode(epoch["value"])),
                epoch_revision="0" if epoch is None else epoch["mod_revision"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(f"what etcd keeps of VM {vm}", error) from error

    def _owner_key(self, vm: UUID) -> str:
        return f"{self._owners}{vm}{_OWNER}"

    def _released_key(self, vm: UUID) -> str:
        return f"{self._prefix}/released/{vm}"


def _record(vm: UUID, pair: Json) -> Ownership:
    try:
        record = Ownership.model_validate_json(decode(pair["value"]))
    except (KeyError, ValueError) as error:
        raise damaged(f"the record of VM {vm} in etcd", error) from error
    if record.vm != vm:
        raise damaged(f"the record of VM {vm} in etcd", ValueError(f"it is of VM {record.vm}"))
    return record
