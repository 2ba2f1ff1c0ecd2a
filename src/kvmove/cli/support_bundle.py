"""`kvmove support-bundle`: what somebody needs who is to help from afar, in one file, and no secrets.

Invariant: only what is listed in `_FILES` and what the manager answers is read, never a folder of keys, and all of it
goes through `redact` on its way into the bundle. What could not be had is named in it; the rest is there all the same.
"""

import io
import json
import platform
import tarfile
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

import kvmove
from kvmove.cli.doctor import AGENT, MANAGER, diagnose
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Printer, plain
from kvmove.cli.redact import redact
from kvmove.cli.session import ask
from kvmove.cli.settings import config_folder
from kvmove.client.manager import ManagerClient
from kvmove.errors import Busy, KvmoveError
from kvmove.model.toml_file import read_text

TASKS = 200
_PACKAGES = ("aiohttp", "click", "cryptography", "fastapi", "pydantic", "prometheus-client", "rich", "uvicorn")
_README = "CONTENTS.txt"


class Bundle(BaseModel):
    """What was written, and what could not be had."""

    file: Path
    contents: dict[str, str]
    missing: dict[str, str]


class _Contents:
    """Files by their names in the bundle, already without secrets, and a word on each."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, words: str, text: str) -> None:
        self.files[name] = redact(text)
        self.words[name] = words

    async def fetch(self, name: str, words: str, asking: Awaitable[Any]) -> None:
        try:
            self.add(name, words, _text(await asking))
        except KvmoveError as error:
            self.missing[name] = error.detail


@click.command("support-bundle", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--agent-config", type=click.Path(path_type=Path), metavar="FILE", help="The agent's, if elsewhere.")
@click.option("--manager-config", type=click.Path(path_type=Path), metavar="FILE", help="The manager's, if elsewhere.")
@pass_options
def support_bundle(options: Options, file: Path | None, agent_config: Path | None, manager_config: Path | None) -> None:
    """Write FILE (by default kvmove-support-TIME.tar.gz) with what helps to find a fault.

    In it are versions, configuration, doctor's findings, hosts, VMs, the last tasks and events, figures, and the last
    log lines of the manager and the agents. Keys, tickets, tokens and passwords are not. Look before you send it: names
    and addresses of your hosts and VMs are.
    """
    target = file or Path(time.strftime("kvmove-support-%Y%m%d-%H%M%S.tar.gz"))
    contents = _Contents()
    _add_local(contents, options, agent_config, manager_config)
    try:
        ask(options, lambda manager: _add_cluster(contents, manager))
    except KvmoveError as error:
        contents.missing["cluster"] = error.detail
    _write(target, contents)
    made = Bundle(file=target, contents=contents.words, missing=contents.missing)
    Printer(options).item(made, str(target), lambda: _told(made))


def _add_local(contents: _Contents, options: Options, agent: Path | None, manager: Path | None) -> None:
    versions = {
        "kvmove": kvmove.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
    contents.add(
        "versions.json", "versions of kvmove, Python, the system and libraries", json.dumps(versions, indent=2)
    )
    files = {"agent.toml": agent or AGENT, "manager.toml": manager or MANAGER, "user.toml": _user_file()}
    for name, path in files.items():
        try:
            contents.add(f"config/{name}", f"{path}", read_text(path))
        except KvmoveError as error:
            contents.missing[f"config/{name}"] = error.detail
    found = diagnose(options, agent, manager, here=False)
    contents.add("doctor.json", "what kvmove doctor found", _text(found))


async def _add_cluster(contents: _Contents, manager: ManagerClient) -> None:
    fetch = contents.fetch
    await fetch("manager/health.json", "the manager's version and time", manager.health())
    await fetch("manager/hosts.json", "hosts as their agents report them", manager.hosts())
    await fetch("manager/vms.json", "VMs", manager.vms())
    await fetch("manager/datastores.json", "datastores", manager.datastores())
    await fetch("manager/tasks.json", f"the last {TASKS} tasks", _last_tasks(manager))
    await fetch("manager/events.json", "changes of state that the manager remembers", _past(manager))
    await fetch("manager/log.ndjson", "the last lines of the manager's log", _log(manager.log))
    await fetch("manager/metrics.txt", "the manager's figures", _second(manager.raw("GET", "/metrics")))
    try:
        hosts = await manager.hosts()
    except KvmoveError:
        return
    for host in hosts:
        folder = f"hosts/{host.name}"
        figures = manager.raw("GET", f"/api/v1/hosts/{host.name}/metrics")
        await fetch(
            f"{folder}/log.ndjson", f"the last lines of the agent's log on {host.name}", _log(manager.log, host.name)
        )
        await fetch(f"{folder}/metrics.txt", f"the agent's figures on {host.name}", _second(figures))


async def _last_tasks(manager: ManagerClient) -> Sequence[BaseModel]:
    return (await manager.tasks())[:TASKS]


async def _past(manager: ManagerClient) -> BaseModel:
    return await manager.past_events("1970-01-01T00:00:00+00:00")


async def _log(ask_log: Callable[..., Awaitable[list[dict[str, str]]]], *host: str) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in await ask_log(*host))


async def _second(asking: Awaitable[tuple[str, str]]) -> str:
    return (await asking)[1]


def _user_file() -> Path:
    return config_folder() / "config.toml"


def _text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    data = plain(answer) if isinstance(answer, BaseModel) else answer
    if isinstance(data, list):
        data = [plain(item) if isinstance(item, BaseModel) else item for item in data]
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _write(target: Path, contents: _Contents) -> None:
    """:raise Busy: the file is there, or cannot be written."""
    lines = [f"{name}: {words}" for name, words in contents.words.items()]
    lines += [f"{name}: missing: {redact(why)}" for name, why in contents.missing.items()]
    files = {_README: "\n".join(lines) + "\n", **contents.files}
    folder = target.name.removesuffix(".gz").removesuffix(".tar")
    try:
        with target.open("xb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as bundle:
            for name, text in files.items():
                data = text.encode()
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
                bundle.addfile(entry, io.BytesIO(data))
        target.chmod(0o600)
    except FileExistsError as error:
        raise Busy(f"{target} is there already", hint="name another file") from error
    except OSError as error:
        raise Busy(f"{target} cannot be written: {error.strerror}") from error


def _told(made: Bundle) -> str:
    lines = [f"Written to {made.file}. In it:", *(f"  {name:<26} {words}" for name, words in made.contents.items())]
    if made.missing:
        lines += ["Could not be had:", *(f"  {name:<26} {why}" for name, why in made.missing.items())]
    return "\n".join([*lines, "No keys, tickets, tokens or passwords. Names and addresses of hosts and VMs are in it."])
