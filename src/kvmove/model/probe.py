"""What agents find out for a check before a move: of their QEMU, of themselves, and of the networks between two hosts.

Host reports (`model.host`) are read every few seconds; these are asked for only when somebody checks, because they take
time, start a process or send packets.
"""

from pydantic import Field

from kvmove.model.strict import Strict

MOST_PAIRS = 64
MOST_BRIDGES = 64
MOST_FILES = 16


class CpuFacts(Strict):
    """What a QEMU makes of a CPU model on this host. `features` are the model's, by QEMU's names; `missing` those of
    them that this host cannot give, so a guest here runs without. `known` False: this QEMU has no such model."""

    accelerator: str
    model: str
    known: bool = True
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class QemuFacts(Strict):
    """A host's QEMU by its own word: its machine types, and the CPU model of our VMs under each accelerator."""

    machines: tuple[str, ...]
    cpus: tuple[CpuFacts, ...]


class HereRequest(Strict):
    """Asks a host for `HereFacts`; `files` are paths to look for."""

    files: tuple[str, ...] = Field(default=(), max_length=MOST_FILES)


class CertificateFacts(Strict):
    """A certificate of a host: its file, and until when it is valid (RFC 3339)."""

    path: str
    expires: str


class HereFacts(Strict):
    """A host at this moment. `clock` is its time of day in seconds since 1970; `mtus` by network device, in bytes;
    `missing_files` are those asked for that are not there."""

    clock: float
    mtus: dict[str, int] = {}
    certificates: tuple[CertificateFacts, ...] = ()
    missing_files: tuple[str, ...] = ()


class ListenRequest(Strict):
    """Asks a host to listen on `bridges` for frames with `token` (hex), for some seconds."""

    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    bridges: tuple[str, ...] = Field(max_length=MOST_BRIDGES)


class NicPair(Strict):
    """Two ends to probe: IPv4 addresses without prefix, and the size of a packet that both NICs allow (0: not known).
    `near` and `far` are the NICs' names."""

    near: str
    far: str
    source_address: str
    destination_address: str
    mtu: int = 0


class SendRequest(Strict):
    """Asks a host to send frames with `token` on `bridges`, and to try `pairs` at the destination's `port`."""

    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    bridges: tuple[str, ...] = Field(max_length=MOST_BRIDGES)
    pairs: tuple[NicPair, ...] = Field(max_length=MOST_PAIRS)
    port: int = Field(ge=1, le=65535)


class PairProbe(Strict):
    """What one pair of NICs showed. `reason` is why it is not reachable; the round trip is a median.

    `mtu` is the size of the packets that were tried whole (bytes, 0: none); `whole` whether they arrived, None when
    that cannot be told because the other side answers no ping.
    """

    near: str
    far: str
    source_address: str
    destination_address: str
    reachable: bool
    reason: str = ""
    round_trip_ms: float | None = None
    mtu: int = 0
    whole: bool | None = None


class BridgeFault(Strict):
    """Why nothing could be sent or heard on a bridge; `down`: it is switched off."""

    bridge: str
    reason: str
    down: bool = False


class SendResult(Strict):
    """What the sending host saw."""

    pairs: tuple[PairProbe, ...] = ()
    faults: tuple[BridgeFault, ...] = ()


class HeardRequest(Strict):
    token: str


class HeardResult(Strict):
    """On which bridges the frames arrived, and on which nobody could listen."""

    heard: tuple[str, ...] = ()
    faults: tuple[BridgeFault, ...] = ()


class BridgeProbe(Strict):
    """Whether frames on the source's bridge reach the destination's of the same name; None: not found out, `reason`
    says why."""

    bridge: str
    connected: bool | None
    reason: str = ""


class NetworkProbe(Strict):
    """What reaches what between two hosts."""

    pairs: tuple[PairProbe, ...] = ()
    bridges: tuple[BridgeProbe, ...] = ()


class PairView(PairProbe):
    """A pair of migration NICs for people: `network` is their common subnet ("" if none), speeds in bytes/s (0: not
    known), MTUs in bytes (0: not known)."""

    network: str = ""
    speed: int = 0
    near_mtu: int = 0
    far_mtu: int = 0


class NetworkReport(Strict):
    """What reaches what between `source` and `destination`. `problems`: what could not be found out, in words."""

    source: str
    destination: str
    pairs: tuple[PairView, ...] = ()
    bridges: tuple[BridgeProbe, ...] = ()
    problems: tuple[str, ...] = ()
