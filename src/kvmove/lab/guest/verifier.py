"""Judges a raw disk against the recorder's log: the native tool `ledger-verify` reads both, this file calls it.

The image must be still: offline, or of a paused VM. One-sided: a report that never arrived makes the check weaker,
never wrong.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvmove.errors import CheckFailed
from kvmove.lab.guest.datagrams import LOG_NAME
from kvmove.lab.guest.prefill import Prefill


class Expect(NamedTuple):
    """What to judge. `prefill` is what `prefill` put on the disk first; then untouched sectors are judged, too.

    `durable_only`: the host lost power, so only what a completed flush covers must be there.
    """

    vm: int = 1
    disk: int = 0
    prefill: Prefill | None = None
    durable_only: bool = False


_ALL = Expect()


@dataclass(frozen=True)
class Finding:
    """A sector that is not as it must be. `what` is lost, corrupt or doubtful; `found` says in words what is there."""

    what: str
    lba: int
    found: str
    found_seq: int
    expected_seq: int
    expected_kind: int
    writer: int
    boot: str


@dataclass(frozen=True)
class Verdict:
    """`acknowledged` and `lost` count writes, zeroes and discards; the rest counts sectors of 512 bytes.

    `doubtful`: zeros that a report which never arrived might explain. `unacknowledged`: newer than the last
    acknowledgement, as it may be. `unreported`: newer than the last submission on record; only the last instants
    before an end explain many.
    """

    acknowledged: int
    lost: int
    corrupt: int
    checked: int
    doubtful: int
    lost_sectors: int
    unacknowledged: int
    unreported: int
    boots: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not (self.lost or self.corrupt or self.doubtful)


def verify(image: Path, recorder_folder: Path, tool: Path, what: Expect = _ALL) -> Verdict:
    """Judge `image`. A verdict with 0 checked sectors means that nothing was recorded of this VM and disk.

    :raise CheckFailed: image or log cannot be read.
    """
    command = [str(tool), "--image", str(image), "--log", str(recorder_folder / LOG_NAME)]
    command += ["--vm", str(what.vm), "--disk", str(what.disk)]
    if what.prefill is not None:
        command += ["--prefill", f"{what.prefill.data_bytes}:{what.prefill.seed}"]
    if what.durable_only:
        command.append("--durable-only")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailed(f"the disk cannot be judged: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    findings = tuple(Finding(**finding) for finding in found.pop("findings"))
    return Verdict(findings=findings, **found)
