"""What demo, soak, compare, downtime and matrix found, as data. The keys are a promise: other programs read them.

Every figure is measured: by the guest, by the recorder outside of both hosts, by the NICs' counters, by QEMU.
"""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kvmove.model.move import MoveKind
from kvmove.model.strict import Strict


class Downtime(Strict):
    """How long the guest stood still, in ms: as QEMU says, by the guest's clock, by its silence on the network."""

    qemu: float
    guest: float
    network: float


class _Copying(Strict):
    """The key is `copy`, which a model cannot have as a name of a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class WriteRates(_Copying):
    """Completed guest writes per second before the move, until the switchover, and after the move."""

    before: float
    copying: float = Field(alias="copy")
    after: float


class LongestGaps(_Copying):
    """The longest time between two completed writes, in ms: until the switchover, and over it."""

    copying: float = Field(alias="copy")
    switchover: float


class LedgerVerdict(Strict):
    """Writes that the guest was told are done, and how many of them the destination's disk lacks."""

    acknowledged: int
    lost: int


class DemoResult(Strict):
    """`bytes` is what each migration NIC of the source sent; `dual_run` whether two copies of the guest ever ran."""

    seconds: float
    downtime_ms: Downtime
    writes_per_second: WriteRates
    longest_gap_ms: LongestGaps
    bytes: dict[str, int]
    ledger: LedgerVerdict
    digests_equal: bool
    dual_run: bool


class SoakResult(Strict):
    """`digests_equal` holds for every hop; `guest_oops` counts lines of trouble on the guest's console."""

    hops: int
    lost: int
    corrupt_pages: int
    dual_runs: int
    digests_equal: bool
    guest_oops: int

    @property
    def good(self) -> bool:
        return self.digests_equal and not (self.lost or self.corrupt_pages or self.dual_runs or self.guest_oops)


class ContestantResult(Strict):
    """One way to move the same guest. Writes and gap are those until the switchover; `bytes_sent` of all NICs."""

    seconds: float
    writes_per_second: float
    longest_gap_ms: float
    downtime_ms: float
    bytes_sent: int
    allocated_bytes: int


class CompareResult(Strict):
    kvmove: ContestantResult
    kvmove_two_nics: ContestantResult
    libvirt_sync: ContestantResult


class DowntimeRun(Strict):
    """One move. `guest_ms` is how long the guest's clock stood still, `agent_ms` how long the report of the move says:
    QEMU's figure, or in a storage move the agent's.
    """

    kind: MoveKind
    seconds: float
    guest_ms: float
    agent_ms: float


class DowntimeSummary(Strict):
    """Of all runs of one kind: the median, and the worst."""

    kind: MoveKind
    runs: int
    guest_median_ms: float
    guest_worst_ms: float
    agent_median_ms: float
    agent_worst_ms: float


class ProcessIo(Strict):
    """Bytes that a process read and wrote, under the names of /proc/PID/io: `…char` by its calls, and by
    copy_file_range(2); `…_bytes` from and to storage, or for the page cache to write there.
    """

    rchar: int
    wchar: int
    read_bytes: int
    write_bytes: int


class CopyRun(Strict):
    """One storage move of a disk that was filled just before. `way` says between what; `data` is what the disk held.

    `agent_io` is what the agent did beyond what an idle one does in that time; `guest_wrote` (bytes) is what of it came
    from the guest, whose writes pass through the agent whatever way the data takes. `longest_gap_ms` is the longest
    time between two completed writes of the guest until the switchover.
    """

    way: str
    size: int
    data: int
    seconds: float
    guest_ms: float
    agent_ms: float
    longest_gap_ms: float
    moved_by: dict[str, int]
    agent_io: ProcessIo
    guest_wrote: int


class DowntimeResult(Strict):
    """`lost` counts acknowledged writes that any of the disks lacks in the end."""

    runs: tuple[DowntimeRun, ...]
    summary: tuple[DowntimeSummary, ...]
    copies: tuple[CopyRun, ...]
    lost: int


class MatrixResult(StrEnum):
    """What a case was. REFUSED: the product said no, and why; nothing was changed."""

    MOVED = "moved"
    REFUSED = "refused"
    FAILED = "failed"


class MatrixRow(Strict):
    """One case. None is: not judged. `stun_ms` is how long the guest's clock stood still; `reason` says why it was
    refused, or what is wrong.
    """

    case: str
    result: MatrixResult
    lost: int | None = None
    equal: bool | None = None
    stun_ms: float | None = None
    reason: str = ""


def write(folder: Path, target: str, result: BaseModel | Sequence[BaseModel]) -> Path:
    """Write a result, or a list of them, as `<folder>/<target>.json` and return the path."""
    return write_data(folder, target, as_json(result))


def write_data(folder: Path, target: str, data: object) -> Path:
    """The same for what is JSON already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target}.json"
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return path


def as_json(result: BaseModel | Sequence[BaseModel]) -> object:
    """The result as JSON has it."""
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json", by_alias=True)
    return [one.model_dump(mode="json", by_alias=True) for one in result]
