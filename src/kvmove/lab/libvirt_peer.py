"""libvirt in a lab's hosts, as the peer that kvmove is measured beside.

Each host of a *bare* lab gets a libvirtd of its own: private folders by bind mounts in the host's mount namespace, a
distinct host UUID, TCP without authentication on the host's first migration NIC (the namespaces are the fence). It
ends with the host. Measured with libvirt 9.0 and QEMU 7.2 of Debian 12; nothing of kvmove's data path is used here.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
from xml.sax.saxutils import quoteattr

from kvmove.lab import addresses
from kvmove.lab.commands import LabFailed
from kvmove.lab.folders import LabFolders
from kvmove.lab.lab_host import LabHost
from kvmove.qemu.accelerator import emulated_memory

PRIVATE = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")
DAEMON_CONFIG = """
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
QEMU_CONFIG = """
security_driver = "none"
user = "root"
group = "root"
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
UP_WITHIN = 30.0
ABORT_SECONDS = 60.0


@dataclass(frozen=True)
class PeerGuest:
    """The guest as libvirt is to run it: the same kernel, memory and disk as kvmove's. Sizes in bytes."""

    name: str
    memory: int
    disk: Path
    kernel: Path
    initrd: Path
    command_line: str
    mac: str
    serial: Path


@dataclass(frozen=True)
class JobFigures:
    """What libvirt itself says about a completed migration: milliseconds and bytes."""

    downtime_ms: float
    total_ms: float
    memory_bytes: int


class LibvirtPeer:
    """libvirt on one host of a lab."""

    def __init__(self, host: LabHost, folders: LabFolders) -> None:
        if host.index is None:
            raise LabFailed("libvirt runs on a host, not in the world")
        self.host = host
        self.address = addresses.migration(0, host.index).address
        self._folder = folders.host(host.name) / "libvirt"

    async def start(self) -> None:
        """Start libvirtd in the host and wait until it answers.

        :raise LabFailed: it is not installed or does not come up; its log is in the host's `libvirt` folder.
        """
        await asyncio.to_thread(self._write_files)
        for place in PRIVATE:
            await self.host.exec(["mount", "--bind", str(self._private(place)), place])
        await self.host.exec(["mkdir", "-p", "/run/libvirt"])
        await self.host.exec(["mount", "-t", "tmpfs", "tmpfs", "/run/libvirt"])
        await self.host.exec(["libvirtd", "--daemon", "--listen", "--pid-file", "/run/libvirt/libvirtd.pid"])
        until_it_answers = "until virsh --connect qemu:///system version; do sleep 0.1; done"
        await self.host.exec(["timeout", f"{UP_WITHIN}", "sh", "-c", until_it_answers])

    async def start_guest(self, guest: PeerGuest) -> None:
        """Start the guest here (not persistent: it is gone when it ends).

        :raise LabFailed: libvirt refused.
        """
        xml = self._folder / f"{guest.name}.xml"
        await asyncio.to_thread(xml.write_text, domain_xml(guest))
        await self.virsh("create", str(xml))

    async def migrate_within(self, limit: float, name: str, to: "LibvirtPeer", *options: str) -> bool:
        """Move the guest with its disks to the other host, live; the destination's disk file must be there already.

        What takes longer than `limit` seconds is given up, and False returned: the guest goes on here.

        :raise LabFailed: libvirt gave up.
        """
        targets = [f"qemu+tcp://{to.address}/system", f"tcp://{to.address}"]
        words = ["migrate", "--live", "--copy-storage-all", *options, name, *targets]
        move = asyncio.create_task(self.virsh(*words, timeout=limit + ABORT_SECONDS))
        await asyncio.wait({move}, timeout=limit)
        converged = move.done()
        try:
            if not converged:
                await self.virsh("domjobabort", name)
            await move
        except LabFailed:
            if converged:
                raise
        return converged

    async def figures(self, name: str) -> JobFigures:
        """libvirt's own figures of the migration that brought the guest here."""
        found: dict[str, str] = {}
        for line in (await self.virsh("domjobinfo", name, "--completed", "--rawstats")).splitlines():
            key, _, value = line.partition(":")
            found[key.strip()] = value.strip()
        return JobFigures(
            float(found.get("downtime", "0")),
            float(found.get("time_elapsed", "0")),
            int(found.get("memory_processed", "0")),
        )

    async def virsh(self, *words: str, timeout: float = 60.0) -> str:
        """Run virsh in the host.

        :raise LabFailed: libvirt refused; the words are its own.
        """
        return await self.host.exec(["virsh", "--connect", "qemu:///system", *words], timeout)

    def _private(self, place: str) -> Path:
        return self._folder / place.strip("/").replace("/", "-")

    def _write_files(self) -> None:
        for place in PRIVATE:
            self._private(place).mkdir(parents=True)
        etc = self._private("/etc/libvirt")
        (etc / "libvirtd.conf").write_text(DAEMON_CONFIG.format(uuid=uuid4(), address=self.address))
        (etc / "qemu.conf").write_text(QEMU_CONFIG)


def domain_xml(guest: PeerGuest) -> str:
    """The guest in libvirt's words: q35 under TCG, a virtio disk without cache, a virtio NIC on the guest bridge.

    Its RAM is what kvmove's guest gets, given to QEMU past libvirt, which rounds to MiB: QEMU 7.2 loses memory of an
    emulated guest that it migrates with such a size, and the guest would now and then not outlive its move.
    """
    memory = emulated_memory(guest.memory)
    return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{guest.name}</name>
  <memory unit='b'>{guest.memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{guest.kernel}</kernel>
    <initrd>{guest.initrd}</initrd>
    <cmdline>{quoteattr(guest.command_line)[1:-1]}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source file={quoteattr(str(guest.disk))}/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <source bridge='{addresses.GUEST_BRIDGE}'/>
      <mac address='{guest.mac}'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'><source path={quoteattr(str(guest.serial))}/></serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-object'/><qemu:arg value='memory-backend-ram,id=safe-ram,size={memory}'/>
    <qemu:arg value='-machine'/><qemu:arg value='memory-backend=safe-ram'/>
    <qemu:arg value='-m'/><qemu:arg value='size={memory // 1024}k'/>
  </qemu:commandline>
</domain>
"""
