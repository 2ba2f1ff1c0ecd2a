"""What can be moved how: every case that `lab matrix` runs, by a name that stays. Pure.

    {unified, storage} × source image × destination image × {thin, thick} × {1, 3} disks × {running, paused, off}
    host               × source image                                     × {1, 3} disks × {running, paused, off}

and images over a base, kept and flattened. A case that must be refused says which words the refusal must hold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from kvmove.lab.spec import BLOCK, BLOCK_SHARED, LOCAL, SECOND, SHARED
from kvmove.model.move import MoveKind, MoveRequest
from kvmove.model.vm import DiskFormat, Provisioning, VmState


class Image(StrEnum):
    """What a disk lies on."""

    RAW = "raw"
    QCOW2 = "qcow2"
    BLOCK = "block"

    @property
    def image_format(self) -> DiskFormat:
        return DiskFormat.QCOW2 if self is Image.QCOW2 else DiskFormat.RAW


class Chain(StrEnum):
    """What becomes of an image's base."""

    NONE = ""
    KEPT = "kept"
    FLATTENED = "flattened"


@dataclass(frozen=True)
class Case:
    """One move of one VM whose disks are all alike. `provisioning` is that at the destination."""

    kind: MoveKind
    source: Image
    destination: Image
    provisioning: Provisioning = Provisioning.THIN
    disks: int = 1
    state: VmState = VmState.RUNNING
    chain: Chain = Chain.NONE

    @property
    def name(self) -> str:
        images = f"{self.source} on a base" if self.chain else str(self.source)
        if self.kind is not MoveKind.HOST or self.destination is not self.source:
            images += f"→{self.destination} {self.provisioning}"
        disks = "1 disk" if self.disks == 1 else f"{self.disks} disks"
        return " ".join(filter(None, (self.kind, images, disks, self.state, self.chain)))

    @property
    def refused(self) -> str:
        """Words that say why the move must not be done; empty if it must. What the API says must hold them: to be
        refused for another reason is no proof.
        """
        if self.kind is MoveKind.HOST and self.destination is not self.source:
            return "stays where it is"
        if self.destination is Image.BLOCK and self.provisioning_after is Provisioning.THIN:
            return "block device"
        return ""

    @property
    def compared(self) -> bool:
        """Whether both disks must have been compared at the switchover: two hosts have one each."""
        return self.kind is MoveKind.UNIFIED and self.state is VmState.RUNNING

    @property
    def source_datastore(self) -> str:
        if self.source is Image.BLOCK:
            return BLOCK_SHARED if self.kind is MoveKind.HOST else BLOCK
        return SHARED if self.kind is MoveKind.HOST else LOCAL

    @property
    def source_provisioning(self) -> Provisioning:
        return Provisioning.THICK if self.source is Image.BLOCK else Provisioning.THIN

    @property
    def provisioning_after(self) -> Provisioning:
        return self.source_provisioning if self.kind is MoveKind.HOST else self.provisioning

    @property
    def destination_datastore(self) -> str:
        if self.kind is MoveKind.HOST:
            return self.source_datastore
        if self.destination is Image.BLOCK:
            return BLOCK_SHARED if self.kind is MoveKind.STORAGE and self.source is Image.BLOCK else BLOCK
        return SECOND if self.kind is MoveKind.STORAGE else LOCAL

    def request(self, vm: str, host: str) -> MoveRequest:
        """What an operator would ask for to move `vm`, to `host` if it changes its host."""
        asked: dict[str, object] = {"vm": vm, "host": None if self.kind is MoveKind.STORAGE else host}
        if self.kind is not MoveKind.HOST:
            asked |= {"datastore": self.destination_datastore, "provisioning": self.provisioning}
        if self.kind is not MoveKind.HOST or self.destination is not self.source:
            asked |= {"format": self.destination.image_format}
        asked |= {"flatten": self.chain is Chain.FLATTENED, "verify": self.kind is MoveKind.UNIFIED}
        return MoveRequest.model_validate(asked)


STATES = (VmState.RUNNING, VmState.PAUSED, VmState.OFF)
DISKS = (1, 3)
MOVES_DATA = (MoveKind.UNIFIED, MoveKind.STORAGE)


def cases() -> Iterator[Case]:
    """Every case, the plainest first."""
    for axes in product(MOVES_DATA, Image, Image, Provisioning, DISKS, STATES):
        yield Case(*axes)
    for source, disks, state in product(Image, DISKS, STATES):
        yield Case(MoveKind.HOST, source, source, disks=disks, state=state)
    yield Case(MoveKind.HOST, Image.RAW, Image.QCOW2)
    for kind, chain in product(MOVES_DATA, (Chain.KEPT, Chain.FLATTENED)):
        yield Case(kind, Image.QCOW2, Image.QCOW2, chain=chain)
    yield Case(MoveKind.HOST, Image.QCOW2, Image.QCOW2, chain=Chain.KEPT)


QUICK = (
    "unified raw→raw thin 3 disks running",
    "host raw 1 disk running",
    "host raw→qcow2 thin 1 disk running",
    "unified qcow2→raw thick 1 disk paused",
    "unified raw→block thick 1 disk off",
    "unified raw→block thin 1 disk running",
    "storage block→qcow2 thin 1 disk running",
    "host qcow2 1 disk paused",
    "unified qcow2 on a base→qcow2 thin 1 disk running kept",
)
"""One of each kind of move, and of what must be refused: for the test run."""


def chosen(only: Sequence[str], *, quick: bool) -> list[Case]:
    """The cases whose name holds one of `only`, or all; with `quick` of those in QUICK alone."""
    return [
        case
        for case in cases()
        if (not quick or case.name in QUICK) and (not only or any(text in case.name for text in only))
    ]
