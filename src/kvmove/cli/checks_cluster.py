"""`kvmove doctor` on the cluster, through its manager: what answers, and whether all fits together."""

import time
from datetime import datetime

import kvmove
from kvmove.cli import check_rules as rules
from kvmove.cli.check_rules import FAIL, OK
from kvmove.client.manager import ManagerClient
from kvmove.errors import KvmoveError
from kvmove.model.check import Check

MANAGER = "manager"


async def cluster_checks(manager: ManagerClient, shown: str) -> list[Check]:
    """The manager at `shown`, its registry and its hosts. A manager that does not answer is asked no further."""
    try:
        asked = time.time()
        health = await manager.health()
        answered = time.time()
    except KvmoveError as error:
        return [Check(about=MANAGER, name="manager", state=FAIL, said=error.detail, remedy=error.hint)]
    found = [Check(about=MANAGER, name="manager", state=OK, said=f"answers at {shown}")]
    found.append(rules.same_version(MANAGER, kvmove.__version__, str(health.get("version"))))
    if "time" in health:
        there = datetime.fromisoformat(health["time"]).timestamp()
        found.append(rules.clock((asked + answered) / 2 - there))
    found.append(await _registry(manager))
    try:
        hosts, tasks = await manager.hosts(), await manager.tasks()
    except KvmoveError as error:
        return [*found, Check(about=MANAGER, name="access", state=FAIL, said=error.detail, remedy=error.hint)]
    if not hosts:
        remedy = "list them in manager.toml: [[host]] name, control"
        found.append(Check(about=MANAGER, name="hosts", state=FAIL, said="there are none", remedy=remedy))
    found.append(rules.tasks(tasks))
    for host in hosts:
        found += rules.host(host, kvmove.__version__)
    return found


async def _registry(manager: ManagerClient) -> Check:
    try:
        await manager.ready()
    except KvmoveError as error:
        return Check(
            about=MANAGER, name="registry", state=FAIL, said=error.detail,
            remedy=error.hint or "no VM can be started or handed over before it answers; running ones run on",
        )  # fmt: skip
    return Check(about=MANAGER, name="registry", state=OK, said="answers")
