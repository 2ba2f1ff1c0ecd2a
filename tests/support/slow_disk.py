"""A host of a lab whose disk writes slowly: the kernel's own throttle (cgroup v1, blkio) for its agent. Needs root."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost

BLKIO = Path("/sys/fs/cgroup/blkio")


@contextlib.contextmanager
def slow_writes(lab: Lab, host: LabHost, rate: int) -> Iterator[None]:
    """What the host's processes write past the page cache to its own datastore goes at `rate` bytes/s."""
    group = BLKIO / f"{lab.folders.name}-{host.name}-{os.getpid()}"
    group.mkdir()
    pids = host.pids()
    try:
        (group / "blkio.throttle.write_bps_device").write_text(f"{_device(lab, host)} {rate}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (BLKIO / "cgroup.procs").write_text(left)
        group.rmdir()


def _device(lab: Lab, host: LabHost) -> str:
    """`MAJOR:MINOR` of the loop device below the host's datastore."""
    image = lab.folders.host(host.name) / "datastore.img"
    words = ["losetup", "--json", "--associated", str(image), "--output", "MAJ:MIN"]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return str(json.loads(found)["loopdevices"][0]["maj:min"]).strip()
