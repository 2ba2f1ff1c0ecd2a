"""Where a lab keeps its files. Pure paths.

Two folders hold everything: one under /var/lib (disks, keys, state, logs) and one under /run (sockets, what runs
now). Both carry the lab's name, so several labs do not meet, and removing both removes the lab.
"""

from dataclasses import dataclass
from pathlib import Path

VAR = Path("/var/lib/kvmove-lab")
RUN = Path("/run/kvmove-lab")
WORLD = "world"
"""Name of the namespace outside all hosts: switches, manager, recorder."""


@dataclass(frozen=True)
class LabFolders:
    """The places of the lab called `name`."""

    name: str

    @property
    def var(self) -> Path:
        return VAR / self.name

    @property
    def run(self) -> Path:
        return RUN / self.name

    @property
    def record(self) -> Path:
        """The supervisor's process number, by which `lab down` finds it."""
        return self.run / "supervisor.pid"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.run / "supervisor.sock"

    @property
    def manager_socket(self) -> Path:
        return self.run / "manager.sock"

    @property
    def authority(self) -> Path:
        return self.var / "pki" / "authority"

    @property
    def supervisor_log(self) -> Path:
        return self.var / "supervisor.log"

    def datastore(self, name: str = "local") -> Path:
        """The datastore's path as every host sees it; each host has its own file system there."""
        return self.var / "mnt" / name

    def pki(self, party: str) -> Path:
        return self.var / "pki" / party

    def host(self, name: str) -> Path:
        """Host `name`'s files: configuration, state, logs, the image behind its datastore."""
        return self.var / name

    def host_run(self, name: str) -> Path:
        return self.run / name

    def failpoints(self, name: str) -> Path:
        """Where a test says what happens at the failpoints of host `name`'s agent; see `kvmove.failpoints`."""
        return self.host_run(name) / "failpoints"
