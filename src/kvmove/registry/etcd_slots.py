"""Admission slots in etcd, under etcd's own leases: members agree when one ends, whatever a manager's clock says.

    PREFIX/slot/HOLDER     units by slot, as JSON, under the manager's lease
    PREFIX/lease/ID        there as long as that lease lives, under it

Invariant: `put` writes a holder only if no other was written since all were read, and only while its lease lives.
Holders that went meanwhile do no harm: they made room.
"""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Mapping, Sequence

from kvmove.registry.etcd_gateway import EtcdGateway
from kvmove.registry.etcd_json import RANGE, TXN, Json, below, damaged, decode, delete, exists, none_after, put
from kvmove.registry.slots import Held, Outcome, Want, fits, units_of

TIMEOUT = 4.0


class EtcdSlots:
    """The slots in the etcd cluster whose members are at `endpoints`; the parameters are `EtcdRegistry`'s."""

    def __init__(
        self, endpoints: Sequence[str], prefix: str, tls: ssl.SSLContext | None, *, timeout: float = TIMEOUT
    ) -> None:
        self._gateway = EtcdGateway(endpoints, tls, timeout=timeout)
        self._slots = f"{prefix}/slot/"
        self._leases = f"{prefix}/lease/"

    async def new_lease(self, seconds: float) -> str:
        """etcd has a shortest lease of its own, about two seconds, and counts in whole ones."""
        async with self._gateway.deadline():
            answer = await self._gateway.read("/v3/lease/grant", {"TTL": str(math.ceil(seconds))})
            lease = str(answer.body.get("ID"))
            await self._gateway.change(answer.member, TXN, {"success": [put(self._leases + lease, "", lease)]})
        return lease

    async def renew(self, lease: str) -> bool:
        async with self._gateway.deadline():
            answer = await self._gateway.read("/v3/lease/keepalive", {"ID": lease})
        return int(answer.body.get("TTL", 0)) > 0

    async def put(self, lease: str, holder: str, wants: Mapping[str, Want], *, anyway: bool) -> Outcome:
        async with self._gateway.deadline():
            while True:
                member, revision, held = await self._load()
                if not anyway and not fits(held, holder, wants):
                    return Outcome.FULL
                lives = exists(self._leases + lease)
                body = {
                    "compare": [lives] if anyway else [lives, none_after(self._slots, revision)],
                    "success": [put(self._slots + holder, json.dumps(units_of(wants)), lease)],
                    "failure": [{"request_range": {"key": lives["key"], "count_only": True}}],
                }
                answer = await self._gateway.change(member, TXN, body)
                if answer.get("succeeded") is True:
                    return Outcome.TAKEN
                if "count" not in answer["responses"][0]["response_range"]:
                    return Outcome.LEASE_LOST

    async def drop(self, holder: str) -> None:
        async with self._gateway.deadline():
            await self._gateway.read(TXN, {"success": [delete(self._slots + holder)]})  # may be asked again

    async def held(self) -> list[Held]:
        async with self._gateway.deadline():
            _, _, held = await self._load()
        return held

    async def close(self) -> None:
        await self._gateway.close()

    async def _load(self) -> tuple[str, int, list[Held]]:
        """Who said it, at which revision, and what all holders have."""
        answer = await self._gateway.read(RANGE, below(self._slots))
        try:
            held = [self._held(pair) for pair in answer.body.get("kvs", [])]
            return answer.member, int(answer.body["header"]["revision"]), held
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(f"what etcd keeps below {self._slots}", error) from error

    def _held(self, pair: Json) -> Held:
        units = {str(name): int(number) for name, number in json.loads(decode(pair["value"])).items()}
        return Held(decode(pair["key"]).removeprefix(self._slots), str(pair.get("lease", "0")), units)
