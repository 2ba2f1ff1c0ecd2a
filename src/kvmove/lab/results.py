"""What demo, soak, compare and matrix found, as data. The keys are a promise: other programs read them.

Every figure is measured: by the guest, by the recorder outside of both hosts, by the NICs' counters, by QEMU.
"""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target}.json"
    path.write_text(json.dumps(as_json(result), indent=2, ensure_ascii=False) + "\n")
    return path


def as_json(result: BaseModel | Sequence[BaseModel]) -> object:
    """The result as JSON has it."""
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json", by_alias=True)
    return [one.model_dump(mode="json", by_alias=True) for one in result]
