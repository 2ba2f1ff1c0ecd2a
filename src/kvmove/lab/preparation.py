"""Everything a lab needs on disk before its hosts start: folders, keys, configurations, images for the datastores.

It starts nothing and mounts nothing. All of it lies in the lab's two folders and goes with them, but for the block
devices, which go with the supervisor.
"""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kvmove import failpoints
from kvmove.disk.datastore import Datastore
from kvmove.errors import Busy
from kvmove.lab import addresses, network
from kvmove.lab.commands import run
from kvmove.lab.folders import WORLD, LabFolders
from kvmove.lab.host_init import HostConfig, Service
from kvmove.lab.loops import LoopDevices
from kvmove.lab.spec import BLOCK, BLOCK_SHARED, LOCAL, SECOND, SHARED, LabSpec
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role

RECORDER_PORT = 7450
DATA_PORT = 17450
HOST_CONFIG = "host.json"

MAKE_FILE_SYSTEM = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "ext4": ["mkfs.ext4", "-q", "-T", "largefile4"],
}
"""With few inodes, because ext4 goes on to zero the tables of all of them after it is mounted."""


@dataclass(frozen=True)
class _Store:
    """A datastore: where it lies, and the devices that disks in it may take."""

    place: Path
    devices: Sequence[str] = ()


def prepare(spec: LabSpec, folders: LabFolders, loops: LoopDevices) -> None:
    """Write all files of the lab; block devices are attached to `loops`.

    :raise LabFailed: a file system or a device could not be made.
    :raise OSError: the disk is full or not writable; what was written so far lies in the lab's folders.
    """
    for name in (WORLD, *spec.hosts):
        folders.host(name).mkdir(parents=True, mode=0o700)
        folders.host_run(name).mkdir(parents=True, mode=0o700)
    shared = _shared_stores(spec, folders, loops)
    if not spec.bare:
        _issue_keys(spec, folders)
    _write_host(folders, WORLD, HostConfig(f"{spec.name}-{WORLD}", services=_world_services(spec, folders)))
    for index, host in enumerate(spec.hosts):
        binds = shared | _own_stores(spec, folders, host, loops)
        mounts = [_prepare_datastore(spec, folders, host)]
        mounts += [["--bind", str(store.place), str(_mount_point(folders, name))] for name, store in binds.items()]
        stores = {LOCAL: _Store(folders.datastore(LOCAL)), SECOND: _Store(folders.datastore(LOCAL) / SECOND)}
        stores |= {name: _Store(folders.datastore(name), store.devices) for name, store in binds.items()}
        services = [] if spec.bare else [_agent(spec, folders, host, index, stores)]
        folders.failpoints(host).mkdir(mode=0o700)
        environment = {failpoints.VARIABLE: str(folders.failpoints(host))}
        _write_host(folders, host, HostConfig(host, mounts=mounts, services=services, environment=environment))


def host_config(folders: LabFolders, name: str) -> Path:
    """The configuration that the init of host `name` reads."""
    return folders.host_run(name) / HOST_CONFIG


def recorder_folder(folders: LabFolders) -> Path:
    """Where the recorder of the ledger guests writes."""
    return folders.host(WORLD) / "recorder"


def identify_datastore(place: Path) -> None:
    """Make two datastores in the mounted file system at `place`, unless they are there (a host that came back)."""
    second = place / SECOND
    second.mkdir(exist_ok=True)
    for name, path in ((LOCAL, place), (SECOND, second)):
        with contextlib.suppress(Busy):
            Datastore.create(name, path)


def _write_host(folders: LabFolders, name: str, config: HostConfig) -> None:
    host_config(folders, name).write_text(json.dumps(asdict(config), indent=1))


def _shared_stores(spec: LabSpec, folders: LabFolders, loops: LoopDevices) -> dict[str, _Store]:
    """Those that all hosts see, in folders of this machine."""
    if not spec.shared:
        return {}
    stores = {SHARED: _new_store(folders, WORLD, SHARED)}
    if spec.block:
        stores[BLOCK_SHARED] = _new_store(folders, WORLD, BLOCK_SHARED, _devices(spec, folders, WORLD, loops))
    return stores


def _own_stores(spec: LabSpec, folders: LabFolders, host: str, loops: LoopDevices) -> dict[str, _Store]:
    """Those of the host alone that are folders of this machine."""
    if not spec.block:
        return {}
    return {BLOCK: _new_store(folders, host, BLOCK, _devices(spec, folders, host, loops))}


def _new_store(folders: LabFolders, host: str, name: str, devices: Sequence[str] = ()) -> _Store:
    place = folders.host(host) / f"{name}-datastore"
    place.mkdir()
    Datastore.create(name, place)
    return _Store(place, devices)


def _devices(spec: LabSpec, folders: LabFolders, host: str, loops: LoopDevices) -> list[str]:
    images = [folders.host(host) / f"block-{number}.img" for number in range(spec.block)]
    return [loops.attach(image, spec.block_size) for image in images]


def _mount_point(folders: LabFolders, datastore: str) -> Path:
    target = folders.datastore(datastore)
    target.mkdir(parents=True, exist_ok=True)
    return target


def _prepare_datastore(spec: LabSpec, folders: LabFolders, host: str) -> list[str]:
    target = _mount_point(folders, LOCAL)
    if spec.datastore.kind == "folder":
        folder = folders.host(host) / "datastore"
        folder.mkdir()
        return ["--bind", str(folder), str(target)]
    image = folders.host(host) / "datastore.img"
    with image.open("xb") as file:
        file.truncate(spec.datastore.size)
    run([*MAKE_FILE_SYSTEM[spec.datastore.file_system], str(image)])
    return ["-o", "loop", str(image), str(target)]


def _issue_keys(spec: LabSpec, folders: LabFolders) -> None:
    create_authority(folders.authority)
    parties = [Identity(Role.MANAGER, "manager"), Identity(Role.OPERATOR, "operator")]
    parties += [Identity(Role.AGENT, host) for host in spec.hosts]
    for party in parties:
        issue(folders.authority, party, folders.pki(party.name))


def _world_services(spec: LabSpec, folders: LabFolders) -> list[Service]:
    recorder_folder(folders).mkdir()
    log = folders.host(WORLD)
    listen = f"{addresses.world_guests()}:{RECORDER_PORT}"
    record = [sys.executable, "-m", "kvmove.lab.guest.recorder", "--listen", listen]
    services = [Service("recorder", [*record, "--out", str(recorder_folder(folders))], str(log / "recorder.log"))]
    if spec.rtt_ms:
        services.insert(0, Service("delay-line", _delay_line(spec), str(log / "delay-line.log")))
    if not spec.bare:
        config = log / "manager.toml"
        config.write_text(_manager_toml(spec, folders))
        services.append(Service("manager", _kvmove("manager", config), str(log / "manager.log")))
        if spec.registry == "etcd":
            services += [
                Service(etcd_service(number), _etcd(spec, folders, number), str(log / f"{etcd_service(number)}.log"))
                for number in range(spec.etcd_members)
            ]
    return services


def _delay_line(spec: LabSpec) -> list[str]:
    switches = network.delayed_switches(len(spec.hosts), len(spec.nics))
    words = [sys.executable, "-m", "kvmove.lab.delay_line", "--rtt", str(spec.rtt_ms)]
    return words + [word for ports in switches for word in ("--switch", ",".join(ports))]


def etcd_service(number: int) -> str:
    """What etcd's member of that number is called among the world's services."""
    return f"etcd{number + 1}" if number else "etcd"


def etcd_endpoint(number: int, *, peer: bool = False) -> str:
    """Where etcd's member of that number listens, on the world's own loopback alone."""
    return f"http://127.0.0.1:{_ETCD_PORT + 10 * number + peer}"


def _etcd(spec: LabSpec, folders: LabFolders, number: int) -> list[str]:
    name = etcd_service(number)
    client, peer = etcd_endpoint(number), etcd_endpoint(number, peer=True)
    members = range(spec.etcd_members)
    cluster = ",".join(f"{etcd_service(other)}={etcd_endpoint(other, peer=True)}" for other in members)
    options = {"data-dir": str(folders.host(WORLD) / name), "name": name, "initial-cluster": cluster}
    options |= dict.fromkeys(("listen-client-urls", "advertise-client-urls"), client)
    options |= dict.fromkeys(("listen-peer-urls", "initial-advertise-peer-urls"), peer)
    return ["etcd", *(f"--{name}={value}" for name, value in options.items())]


def _agent(spec: LabSpec, folders: LabFolders, host: str, index: int, stores: Mapping[str, _Store]) -> Service:
    config = folders.host(host) / "agent.toml"
    config.write_text(_agent_toml(spec, folders, host, index, stores))
    return Service("agent", _kvmove("agent", config), str(folders.host(host) / "agent.log"))


_ETCD_PORT = 2379

KEEP_SOURCE_SECONDS = 5
"""Old disks go soon: a soak would fill the datastore with them."""


def _kvmove(program: str, config: Path) -> list[str]:
    return [sys.executable, "-m", "kvmove", program, "--config", str(config)]


def _manager_toml(spec: LabSpec, folders: LabFolders) -> str:
    lines = [
        f"listen = {_text(f'{addresses.world_management()}:{addresses.MANAGER_PORT}')}",
        f"socket = {_text(folders.manager_socket)}",
        f"state = {_text(folders.host(WORLD) / 'manager')}",
        f"pki = {_text(folders.pki('manager'))}",
        f"authority = {_text(folders.authority)}",
    ]
    if spec.registry == "etcd":
        endpoints = [etcd_endpoint(number) for number in range(spec.etcd_members)]
        lines += ["", "[registry]", 'engine = "etcd"', f"endpoints = {json.dumps(endpoints)}"]
    for index, host in enumerate(spec.hosts):
        lines += ["", "[[host]]", f"name = {_text(host)}", f"control = {_text(control_address(index))}"]
    return "\n".join(lines) + "\n"


def control_address(index: int) -> str:
    """Where the agent of host number `index` listens."""
    return f"{addresses.management(index).address}:{addresses.CONTROL_PORT}"


def _agent_toml(spec: LabSpec, folders: LabFolders, host: str, index: int, stores: Mapping[str, _Store]) -> str:
    lines = [
        f"name = {_text(host)}",
        f"control = {_text(control_address(index))}",
        f"data_port = {DATA_PORT}",
        f"manager = {_text(f'https://{addresses.world_management()}:{addresses.MANAGER_PORT}')}",
        f"state = {_text(folders.host(host) / 'agent')}",
        f"run = {_text(folders.host_run(host))}",
        f"pki = {_text(folders.pki(host))}",
    ]
    for name, store in stores.items():
        lines += ["", "[[datastore]]", f"name = {_text(name)}", f"path = {_text(store.place)}"]
        lines += [f"devices = {json.dumps(list(store.devices))}"] if store.devices else []
    for number, rate in enumerate(spec.nics):
        lines += ["", "[[nic]]", f"name = {_text(addresses.migration(number, index).name)}"]
        lines += [f"speed = {_text(f'{rate * 8}bit')}"] if rate else []
    lines += ["", "[move]", f"keep_source_seconds = {KEEP_SOURCE_SECONDS}"]
    lines += ["", "[load]", 'of = "processes"', *([f"memory = {spec.host_memory}"] if spec.host_memory else [])]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    """A TOML string; JSON's escapes are a subset of TOML's."""
    return json.dumps(str(value))
