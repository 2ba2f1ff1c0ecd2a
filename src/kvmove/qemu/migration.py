"""QEMU's own migration of memory and device state: both sides of it, step by step.

Facts relied on (QEMU 7.2, each held by a test): the source stops at `pre-switchover` with vCPUs halted, disks drained
and still active, and stays there until `continue_switchover` or `cancel`; after a failure in `device` it runs on by
itself; after `completed` its run state is `postmigrate`, from which `cont` takes the guest back. A destination that
was started paused stays so. QEMU knows no deadline in any of this: every wait here has one.

Not done here: the channels' way over the network (give it a Unix socket of a relay, which must connect the main
channel first: QEMU 7.2 takes the first connection for it), mirrors, and who may run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kvmove.errors import CheckFailed, MoveFailed, QemuError, Unreachable
from kvmove.qemu.features import Features
from kvmove.qemu.monitor import Monitor

CANCEL_SECONDS = 10.0
_POLL_SECONDS = 0.5

HELD_RATE = 400_000
"""Bytes/s. Not 0 nor below 10: QEMU 7.2 takes a tenth of it and then has no limit at all."""

HELD_THROTTLE = 1
"""Percent that vCPUs may be slowed meanwhile: QEMU knows no less."""


class Status(StrEnum):
    """QEMU's MigrationStatus, as far as our moves meet it."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"


ENDED = frozenset({Status.COMPLETED, Status.CANCELLED, Status.FAILED})


@dataclass(frozen=True)
class MigrationInfo:
    """What QEMU tells of a migration. Bytes, bytes/s, milliseconds; 0 is not known (yet).

    `dirty_rate` is what the guest wrote in the last round. `throttle` is the share of time (percent) in which
    auto-converge keeps the vCPUs from running. `downtime_ms` is the real one once completed, QEMU's estimate before.
    """

    status: Status
    ram_total: int = 0
    ram_transferred: int = 0
    ram_remaining: int = 0
    dirty_rate: int = 0
    rate: int = 0
    rounds: int = 0
    throttle: int = 0
    downtime_ms: int = 0
    setup_ms: int = 0
    total_ms: int = 0
    error: str = ""


@dataclass(frozen=True)
class MigrationParameters:
    """What can be set before and while a migration runs; None leaves a value as it is.

    `max_bandwidth` bytes/s (0 is no limit), `downtime_limit_ms` what QEMU may plan for the last round, `throttle_*`
    percent for auto-converge.
    """

    max_bandwidth: int | None = None
    downtime_limit_ms: int | None = None
    throttle_initial: int | None = None
    throttle_increment: int | None = None
    throttle_max: int | None = None

    def arguments(self) -> dict[str, int]:
        """As QMP has them."""
        named = {
            "max-bandwidth": self.max_bandwidth,
            "downtime-limit": self.downtime_limit_ms,
            "cpu-throttle-initial": self.throttle_initial,
            "cpu-throttle-increment": self.throttle_increment,
            "max-cpu-throttle": self.throttle_max,
        }
        return {name: value for name, value in named.items() if value is not None}


USUAL_THROTTLE = MigrationParameters(throttle_initial=20, throttle_increment=10, throttle_max=99)
"""QEMU's own; a migration that ended while it was held back (`Migration.hold_back`) left less."""


class Migration:
    """One side of the migration of one QEMU; `features` are those of that QEMU."""

    def __init__(self, monitor: Monitor, features: Features) -> None:
        self._monitor = monitor
        self._features = features
        self._before_hold: MigrationParameters | None = None

    # -- before ------------------------------------------------------------------------------------------------------

    async def configure_source(
        self, channels: int, parameters: MigrationParameters, *, may_slow_guest: bool = True
    ) -> None:
        """Set what the source needs: the pause before the switchover, `channels` multifd channels (0: none), throttling
        of a guest that writes faster than the wire carries, unless it may not.

        :raise CheckFailed: this QEMU lacks something; nothing was set.
        :raise QemuError: QEMU refused a value; a migration is under way, or it is out of range.
        """
        await self._set_capabilities(channels, {"pause-before-switchover": True, "auto-converge": may_slow_guest})
        await self.set_parameters(USUAL_THROTTLE)
        await self.set_parameters(parameters)

    async def configure_destination(self, channels: int, *, runs_afterwards: bool = True) -> None:
        """Set what the destination needs; `channels` must equal the source's.

        With `runs_afterwards` its disks' locks are left alone until `cont`. A guest that stays paused after the move
        must have it off: QEMU before 10.0 aborts when a guest is moved on whose disks were never activated.
        Raises as `configure_source` does.
        """
        await self._set_capabilities(channels, {"late-block-activate": runs_afterwards})

    async def _set_capabilities(self, channels: int, own: Mapping[str, bool]) -> None:
        wanted = {"events": True, "return-path": True, "multifd": channels > 0} | dict(own)
        missing = {name for name, state in wanted.items() if state} - self._features.capabilities
        if missing:
            raise CheckFailed(
                f"QEMU {self._features.version} cannot migrate as needed: it lacks {', '.join(sorted(missing))}",
                hint="Use QEMU 7.2 or newer on this host.",
            )
        known = {name: state for name, state in wanted.items() if name in self._features.capabilities}
        states = [{"capability": name, "state": state} for name, state in known.items()]
        await self._monitor.execute("migrate-set-capabilities", {"capabilities": states})
        if channels > 0:
            await self._monitor.execute("migrate-set-parameters", {"multifd-channels": channels})

    async def set_parameters(self, parameters: MigrationParameters) -> None:
        """Change limits, also while the migration runs. Raises as `configure_source` does."""
        if arguments := parameters.arguments():
            await self._monitor.execute("migrate-set-parameters", arguments)

    # -- the steps ---------------------------------------------------------------------------------------------------

    async def incoming(self, uri: str) -> None:
        """Destination: listen at `uri` (`unix:/path`). Only for a QEMU that was started for it, and once."""
        await self._monitor.execute("migrate-incoming", {"uri": uri})

    async def migrate(self, uri: str) -> None:
        """Source: begin to send to `uri`; returns at once. Never on a `postmigrate` guest without `cont` before."""
        await self._monitor.execute("migrate", {"uri": uri})

    async def continue_switchover(self) -> None:
        """Source at `pre-switchover`: send the rest. From here QEMU goes on by itself to `completed` or `failed`."""
        await self._monitor.execute("migrate-continue", {"state": Status.PRE_SWITCHOVER})

    async def hold_back(self) -> None:
        """Source, while the guest runs: keep QEMU from the switchover until `let_go`; its vCPUs are not slowed for it.

        So little is sent that what the guest writes is always more than fits into a pause of 1 ms (a limit of 0 would
        let QEMU 7.2 stop the guest without looking at what it wrote). No hold for a guest that writes nothing at all.
        """
        if self._before_hold is not None:
            return
        self._before_hold = parse_parameters(await self._monitor.execute("query-migrate-parameters"))
        slowly = MigrationParameters(
            HELD_RATE,
            downtime_limit_ms=1,
            throttle_initial=HELD_THROTTLE,
            throttle_increment=1,
            throttle_max=HELD_THROTTLE,
        )
        await self.set_parameters(slowly)

    async def let_go(self) -> None:
        """Undo `hold_back`: all limits are what they were."""
        if self._before_hold is not None:
            await self.set_parameters(self._before_hold)
            self._before_hold = None

    async def cancel(self, *, timeout: float = CANCEL_SECONDS) -> Status:
        """Source: give up, and wait until QEMU has; the status it ended with. The guest runs on, if it ran before.

        `completed` means that it was too late: the guest is in `postmigrate`, the destination has it all.

        :raise Unreachable: QEMU did not answer, or did not end in `timeout` seconds.
        """
        with contextlib.suppress(QemuError):  # none under way: the status says so
            await self._monitor.execute("migrate_cancel", timeout=timeout)
        if (await self.info()).status is Status.NONE:
            return Status.NONE
        return (await self._reach(ENDED, timeout)).status

    async def wait_status(self, wanted: Collection[Status], *, timeout: float) -> MigrationInfo:
        """Wait until the status is one of `wanted`.

        :raise MoveFailed: the migration ended otherwise, or not in `timeout` seconds.
        :raise Unreachable: QEMU does not answer, or is gone (a destination whose stream broke exits).
        """
        try:
            info = await self._reach(set(wanted) | ENDED, timeout)
        except _TooLate as late:
            raise MoveFailed(f"the memory's transfer did not reach {'/'.join(wanted)}: {late}") from late
        if info.status not in wanted:
            reason = info.error or "QEMU gives no reason"
            raise MoveFailed(f"the memory's transfer ended as {info.status}: {reason}")
        return info

    async def info(self) -> MigrationInfo:
        """How far it is. :raise Unreachable: QEMU does not answer."""
        return parse_info(await self._monitor.execute("query-migrate"))

    async def next_info(self, seconds: float) -> MigrationInfo:
        """How far it is when its state next changes, or after `seconds`. :raise Unreachable: QEMU does not answer."""
        since = self._monitor.sequence
        info = await self.info()
        if info.status in ENDED or info.status is Status.PRE_SWITCHOVER:
            return info
        with contextlib.suppress(Unreachable):
            await self._monitor.wait_event("MIGRATION", timeout=seconds, since=since)
        return await self.info()

    async def _reach(self, wanted: Collection[Status], timeout: float) -> MigrationInfo:
        """Events say when to look, the query says what is so; the poll is there for an event that did not come."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    since = self._monitor.sequence
                    info = await self.info()
                    if info.status in wanted:
                        return info
                    with contextlib.suppress(Unreachable):
                        await self._monitor.wait_event("MIGRATION", timeout=_POLL_SECONDS, since=since)
        except TimeoutError as error:
            raise _TooLate(f"QEMU's migration is not {'/'.join(sorted(wanted))} after {timeout:g} s") from error


class _TooLate(Unreachable):
    """The deadline of `_reach` passed while QEMU answered."""


async def give_up(migration: Migration, oob: Monitor) -> Status:
    """`cancel`, by force as the last resort: cutting the connections breaks multifd channels together, over which
    QEMU 7.2 may hang for good (see `memory.channel_relay`).

    :raise Unreachable: it did not end even so.
    """
    try:
        return await migration.cancel()
    except Unreachable:
        await cut_connection(oob)
        return await migration.cancel()


async def cut_connection(oob: Monitor) -> None:
    """Cut the migration's connections from outside of QEMU's main loop: a hanging migration then fails.

    `oob` is the out-of-band monitor. Nothing happens when no migration is under way.
    """
    with contextlib.suppress(QemuError):
        await oob.execute_oob("yank", {"instances": [{"type": "migration"}]})


def parse_parameters(answer: Mapping[str, Any]) -> MigrationParameters:
    """Pure: the answer of query-migrate-parameters, as far as we set them."""
    return MigrationParameters(
        max_bandwidth=answer.get("max-bandwidth"),
        downtime_limit_ms=answer.get("downtime-limit"),
        throttle_initial=answer.get("cpu-throttle-initial"),
        throttle_increment=answer.get("cpu-throttle-increment"),
        throttle_max=answer.get("max-cpu-throttle"),
    )


def parse_info(answer: Mapping[str, Any]) -> MigrationInfo:
    """Pure: the answer of query-migrate, in our units."""
    ram = answer.get("ram", {})
    return MigrationInfo(
        status=_status(str(answer.get("status", Status.NONE))),
        ram_total=ram.get("total", 0),
        ram_transferred=ram.get("transferred", 0),
        ram_remaining=ram.get("remaining", 0),
        dirty_rate=ram.get("dirty-pages-rate", 0) * ram.get("page-size", 4096),
        rate=int(ram.get("mbps", 0) * 1e6 / 8),
        rounds=ram.get("dirty-sync-count", 0),
        throttle=answer.get("cpu-throttle-percentage", 0),
        downtime_ms=answer.get("downtime", answer.get("expected-downtime", 0)),
        setup_ms=answer.get("setup-time", 0),
        total_ms=answer.get("total-time", 0),
        error=str(answer.get("error-desc", "")),
    )


def _status(name: str) -> Status:
    """A status that our moves do not meet (post-copy, colo) counts as active: it is neither a pause nor an end."""
    try:
        return Status(name)
    except ValueError:
        return Status.ACTIVE
