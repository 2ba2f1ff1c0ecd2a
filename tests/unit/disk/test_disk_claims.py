"""Claims on block devices: a model of what is free, whoever claims, puts aside and deletes. The devices are made up."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvmove.disk import block_device
from kvmove.disk.block_device import BlockDevice
from kvmove.disk.datastore import Datastore
from kvmove.disk.errors import DiskError
from kvmove.disk.quarantine import Leaving
from kvmove.errors import CheckFailed, KvmoveError, NotFound
from kvmove.model.vm import DiskDefinition, DiskFormat, Provisioning
from kvmove.units import MIB

DISKS = ("root", "data", "disk")

VM = UUID("11111111-2222-3333-4444-555555555555")
OTHER = UUID("11111111-2222-3333-4444-666666666666")
SIZES = {"kv-a": 1 * MIB, "kv-b": 2 * MIB, "kv-c": 2 * MIB, "kv-d": 8 * MIB}


def disk(size: int = MIB, name: str = "root") -> DiskDefinition:
    return DiskDefinition(name=name, datastore="san", size=size, provisioning=Provisioning.THICK)


class Machine:
    """Devices `kv-…`, and one that is not the datastore's; `used` are those that are mounted."""

    def __init__(self, folder: Path) -> None:
        self.dev, self.store_folder = folder / "dev", folder / "store"
        self.dev.mkdir()
        self.store_folder.mkdir()
        for name in (*SIZES, "sda"):
            (self.dev / name).touch()
        self.used: set[str] = set()
        self.block = 512
        self.globs = [str(self.dev / "kv-*")]
        Datastore.create("san", self.store_folder)

    def host(self) -> Datastore:
        return Datastore.open("san", self.store_folder, self.globs)

    def look(self, path: Path, *, exclusively: bool = False) -> BlockDevice | None:
        path = path.resolve()
        if not path.exists() or path.parent != self.dev or (exclusively and path.name in self.used):
            return None
        names = [*SIZES, "sda"]
        return BlockDevice(SIZES.get(path.name, 64 * MIB), self.block, names.index(path.name))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    with patch.object(block_device, "look", made.look):
        yield made


def claim_file(machine: Machine, vm: UUID = VM) -> Path:
    return machine.store_folder / str(vm) / "root.device"


def test_a_disk_takes_the_smallest_device_that_is_large_enough(machine: Machine) -> None:
    store = machine.host()
    assert store.create_disk(VM, disk(MIB + 512)) == machine.dev / "kv-b" == store.disk_path(VM, disk(MIB + 512))
    assert json.loads(claim_file(machine).read_text()) == {"device": f"{machine.dev}/kv-b", "size": MIB + 512}
    info = store.info()
    assert (info.devices, info.free, info.size) == ((MIB, 2 * MIB, 8 * MIB), 11 * MIB, 13 * MIB)


def test_a_disk_that_has_a_device_keeps_it(machine: Machine) -> None:
    store = machine.host()
    store.create_disk(VM, disk())
    with pytest.raises(DiskError, match="has a device already"):
        store.create_disk(VM, disk())
    assert store.disk_path(VM, disk()) == machine.dev / "kv-a"
    assert store.info().devices == (2 * MIB, 2 * MIB, 8 * MIB)


def test_what_is_free_is_told_when_no_device_fits(machine: Machine) -> None:
    machine.used = {"kv-d"}
    with pytest.raises(CheckFailed, match=r"free are: 1\.0 MiB, 2\.0 MiB, 2\.0 MiB"):
        machine.host().create_disk(VM, disk(4 * MIB))
    assert machine.host().vms() == []


def test_a_size_that_is_no_whole_number_of_blocks_does_not_fit(machine: Machine) -> None:
    machine.block = 4096
    with pytest.raises(CheckFailed, match="no free device"):
        machine.host().create_disk(VM, disk(MIB - 512))


@pytest.mark.parametrize(
    "change", [{"format": DiskFormat.QCOW2}, {"provisioning": Provisioning.THIN}], ids=["qcow2", "thin"]
)
def test_what_a_device_cannot_be_is_refused(machine: Machine, change: dict[str, str]) -> None:
    with pytest.raises(CheckFailed, match="block device"):
        machine.host().create_disk(VM, disk().model_copy(update=change))
    assert machine.host().vms() == []


def test_a_claim_leads_nowhere_that_is_not_configured(machine: Machine) -> None:
    store = machine.host()
    store.create_disk(VM, disk())
    for path in ("sda", "kv-none", "../dev/kv-b", "kv-b/../sda"):
        claim_file(machine).write_text(json.dumps({"device": f"{machine.dev}/{path}", "size": MIB}))
        for use in (store.disk_path, store.open_target, lambda vm, it: store.open_source(vm, it, direct=False)):
            with pytest.raises(NotFound, match="no device of this datastore"):
                use(VM, disk())


def test_a_claim_of_another_size_is_not_used(machine: Machine) -> None:
    store = machine.host()
    store.create_disk(VM, disk())
    with pytest.raises(DiskError, match="its claim"):
        store.open_target(VM, disk(2 * MIB))


@pytest.mark.parametrize("damage", ["", "[]", '{"device": "/x"}', '{"device": "/x", "size": "1"}', '{"size": 1}'])
def test_no_device_is_given_away_while_a_claim_cannot_be_read(machine: Machine, damage: str) -> None:
    store = machine.host()
    store.create_disk(VM, disk())
    claim_file(machine).write_text(damage)
    for act in (lambda: store.create_disk(OTHER, disk()), store.info, lambda: store.disk_path(VM, disk())):
        with pytest.raises(DiskError, match="damaged"):
            act()
    store.delete_vm(VM)
    store.create_disk(OTHER, disk())


def test_a_claim_cut_short_is_no_claim(machine: Machine) -> None:
    store = machine.host()
    store.begin_incoming(VM, "m1", DISKS)
    claim_file(machine).with_name(".root.device.new").write_text("")
    store.create_disk(VM, disk())
    assert [path.name for path in claim_file(machine).parent.iterdir() if "new" in path.name] == []


def test_one_device_under_two_names_is_one(machine: Machine) -> None:
    (machine.dev / "kv-0").symlink_to(machine.dev / "kv-a")
    store = machine.host()
    assert store.info().devices == (MIB, 2 * MIB, 2 * MIB, 8 * MIB)
    assert store.create_disk(VM, disk()) == machine.dev / "kv-0"
    assert store.info().devices == (2 * MIB, 2 * MIB, 8 * MIB)


def test_before_a_disk_is_made_its_path_is_its_claims(machine: Machine) -> None:
    assert machine.host().disk_path(VM, disk()) == claim_file(machine)


class Claims(RuleBasedStateMachine):
    """Two hosts that share a datastore. The model knows for each folder which devices its disks have."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.machine = Machine(Path(self.folder.name).resolve())
        self.patch = patch.object(block_device, "look", self.machine.look)
        self.patch.start()
        self.hosts = [self.machine.host(), self.machine.host()]
        self.whole: dict[UUID, dict[str, str]] = {}
        self.aside: list[dict[str, str]] = []
        self.moves = 0

    def free(self) -> dict[str, int]:
        taken = {device for folder in (*self.whole.values(), *self.aside) for device in folder.values()}
        return {name: size for name, size in SIZES.items() if name not in taken | self.machine.used}

    @rule(host=st.sampled_from([0, 1]), vm=st.sampled_from([VM, OTHER]), size=st.sampled_from([MIB, 2 * MIB, 3 * MIB]))
    def make(self, host: int, vm: UUID, size: int) -> None:
        name = f"d{len(self.whole.get(vm, {}))}"
        fitting = [(room, device) for device, room in self.free().items() if room >= size]
        try:
            path = self.hosts[host].create_disk(vm, disk(size, name))
        except KvmoveError:
            assert not fitting
        else:
            assert path.name == min(fitting)[1]
            self.whole.setdefault(vm, {})[name] = path.name

    @precondition(lambda self: self.whole)
    @rule(data=st.data(), host=st.sampled_from([0, 1]), keep=st.booleans())
    def leave(self, data: st.DataObject, host: int, keep: bool) -> None:
        vm = data.draw(st.sampled_from(sorted(self.whole)))
        devices = self.whole.pop(vm)
        if keep:
            self.moves += 1
            self.hosts[host].quarantine(vm, f"m{self.moves}", Leaving(tuple(devices)))
            self.aside.append(devices)
        else:
            self.hosts[host].delete_vm(vm)

    @rule(host=st.sampled_from([0, 1]))
    def purge(self, host: int) -> None:
        self.hosts[host].purge(0)
        self.aside.clear()

    @rule(name=st.sampled_from(sorted(SIZES)), mounted=st.booleans())
    def mount(self, name: str, mounted: bool) -> None:
        if mounted and name in self.free():
            self.machine.used.add(name)
        elif not mounted:
            self.machine.used.discard(name)

    @invariant()
    def all_hosts_agree(self) -> None:
        for host in self.hosts:
            assert host.info().devices == tuple(sorted(self.free().values()))
            for vm, devices in self.whole.items():
                for name, device in devices.items():
                    claim = json.loads((self.machine.store_folder / str(vm) / f"{name}.device").read_text())
                    assert claim["device"] == str(self.machine.dev / device)

    def teardown(self) -> None:
        self.patch.stop()
        self.folder.cleanup()


Claims.TestCase.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
test_a_device_is_given_once_and_again_only_when_nothing_is_left = Claims.TestCase
