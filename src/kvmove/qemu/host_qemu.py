"""What this host's QEMU offers a guest here, by its own word: machine types, and what of a CPU model it can give.

A QEMU without a machine or guest is started, asked and ended; some 60 ms. The answer is kept in a file until the QEMU
binary is another one or the host has booted anew: kernel, microcode and firmware settings change only then.

The commands used are those that libvirt asks of a QEMU without a machine (`-machine none`); nothing here is done to a
QEMU that runs a guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvmove.errors import CheckFailed, MoveFailed, QemuError, Unreachable
from kvmove.model.probe import CpuFacts, QemuFacts
from kvmove.model.strict import Strict
from kvmove.qemu.accelerator import BINARY, Accelerator
from kvmove.qemu.command_line import CPU_MODEL
from kvmove.qemu.monitor import Monitor
from kvmove.qemu.process import QemuProcess

log = logging.getLogger(__name__)

PROBE_SECONDS = 10.0
_RETRY_SECONDS = 0.02


class _Kept(Strict):
    """The cache's file: what was found, and of what."""

    of: str
    facts: QemuFacts


async def host_qemu(accelerators: Iterable[Accelerator], cache: Path, *, binary: str = BINARY) -> QemuFacts:
    """The facts of `binary` on this host, from `cache` where they still hold.

    :raise CheckFailed: it is not installed. :raise MoveFailed: it ended when asked.
    :raise Unreachable: it did not answer within PROBE_SECONDS; it was ended.
    """
    wanted = tuple(accelerators)
    of = _identity(binary, wanted)
    kept = _read(cache)
    if kept is not None and kept.of == of:
        return kept.facts
    machines: tuple[str, ...] = ()
    cpus = []
    for accelerator in wanted:
        machines, cpu = await probe(accelerator, CPU_MODEL, binary=binary)
        cpus.append(cpu)
    facts = QemuFacts(machines=machines, cpus=tuple(cpus))
    _write(cache, _Kept(of=of, facts=facts))
    return facts


async def probe(accelerator: Accelerator, model: str, *, binary: str = BINARY) -> tuple[tuple[str, ...], CpuFacts]:
    """Ask `binary` for its machine types, and what it makes of `model` under `accelerator`. Raises as `host_qemu`."""
    with tempfile.TemporaryDirectory(prefix="kvmove-qemu-") as name:
        folder = Path(name)
        arguments = [
            binary, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", "-accel", accelerator,
            "-S", "-chardev", f"socket,id=qmp,path={folder / 'qmp'},server=on,wait=off",
            "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        process = QemuProcess.start(arguments, folder / "log")
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await _ask(process, folder, accelerator, model)
        except TimeoutError as error:
            raise Unreachable(f"{binary} did not say within {PROBE_SECONDS:g} s what it offers") from error
        finally:
            await process.end()
            process.close()


async def _ask(
    process: QemuProcess, folder: Path, accelerator: Accelerator, model: str
) -> tuple[tuple[str, ...], CpuFacts]:
    monitor = await _connect(process, folder)
    try:
        machines = await monitor.execute("query-machines")
        definitions = await monitor.execute("query-cpu-definitions")
        return parse_machines(machines), await _cpu(monitor, definitions, accelerator, model)
    finally:
        await monitor.close()


async def _connect(process: QemuProcess, folder: Path) -> Monitor:
    while process.is_alive():
        with contextlib.suppress(Unreachable):
            return await Monitor.connect(folder / "qmp")
        await asyncio.sleep(_RETRY_SECONDS)
    words = " / ".join((folder / "log").read_text(errors="replace").splitlines()[-3:])
    raise MoveFailed(f"QEMU ended when it was asked what it offers: {words}")


async def _cpu(monitor: Monitor, definitions: list[dict[str, Any]], accelerator: str, model: str) -> CpuFacts:
    missing = parse_missing(definitions, model)
    if missing is None:
        return CpuFacts(accelerator=accelerator, model=model, known=False)
    try:
        said = await monitor.execute("query-cpu-model-expansion", {"type": "static", "model": {"name": model}})
    except QemuError as error:
        log.warning("QEMU does not expand the CPU model %s: %s", model, error.detail)
        return CpuFacts(accelerator=accelerator, model=model, known=False)
    return CpuFacts(accelerator=accelerator, model=model, features=parse_features(said), missing=missing)


def parse_machines(machines: list[dict[str, Any]]) -> tuple[str, ...]:
    """Pure: the names and aliases, without the one that is no machine."""
    names = {name for machine in machines for name in (machine["name"], machine.get("alias")) if name}
    return tuple(sorted(names - {"none"}))


def parse_missing(definitions: list[dict[str, Any]], model: str) -> tuple[str, ...] | None:
    """Pure: the features of `model` that the host cannot give; None when there is no such model."""
    found = next((it for it in definitions if it["name"] == model), None)
    return None if found is None else tuple(sorted(found.get("unavailable-features", ())))


def parse_features(expansion: dict[str, Any]) -> tuple[str, ...]:
    """Pure: the features that the model turns on."""
    return tuple(sorted(name for name, value in expansion["model"]["props"].items() if value is True))


def _read(cache: Path) -> _Kept | None:
    try:
        return _Kept.model_validate_json(cache.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write(cache: Path, kept: _Kept) -> None:
    draft = cache.with_name(f"{cache.name}.{os.getpid()}")
    draft.write_text(kept.model_dump_json())
    draft.replace(cache)


def _identity(binary: str, accelerators: tuple[Accelerator, ...]) -> str:
    """What the facts depend on, as one text."""
    path = shutil.which(binary)
    if path is None:
        raise CheckFailed(f"{binary} is not installed", hint="Install qemu-system-x86 on this host.")
    real = Path(path).resolve()
    seen = real.stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{real} {seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {CPU_MODEL} {' '.join(accelerators)} {boot}"
