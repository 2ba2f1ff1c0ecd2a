"""agent.toml: every fault is named, with its place."""

from pathlib import Path

import pytest

from kvmove.agent.config import AgentConfig, DatastoreConfig, MoveConfig, NicConfig, load_config
from kvmove.errors import InvalidInput
from kvmove.units import MIB

WHOLE = """
name = "h1"
control = "10.0.0.1:7441"
data_port = 17451
manager = "https://10.0.0.9:7440"
state = "/srv/agent"
run = "/run/agent"
pki = "/srv/pki"

[[nic]]
name = "mig0"
speed = "1Gbit"

[[nic]]
name = "mig1"

[[datastore]]
name = "local"
path = "/srv/disks"

[[datastore]]
name = "san"
path = "/srv/san"
devices = ["/dev/vg0/kv*", "/dev/sdb"]

[move]
forward_buffer = "32MiB"
write_deadline_ms = 1500
keep_source_seconds = 60
streams_per_nic = 2
"""
LEAST = 'name = "h1"\ncontrol = "10.0.0.1:7441"\nmanager = "https://10.0.0.9:7440"\n'


def config(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_config(path)


def test_all_keys_are_read_in_their_units(tmp_path: Path) -> None:
    found = config(tmp_path, WHOLE)
    assert (found.name, found.control, found.data_port) == ("h1", "10.0.0.1:7441", 17451)
    assert (found.state, found.run, found.pki) == (Path("/srv/agent"), Path("/run/agent"), Path("/srv/pki"))
    assert found.nics == (NicConfig(name="mig0", speed=125_000_000), NicConfig(name="mig1", speed=0))
    assert found.datastores == (
        DatastoreConfig(name="local", path=Path("/srv/disks")),
        DatastoreConfig(name="san", path=Path("/srv/san"), devices=("/dev/vg0/kv*", "/dev/sdb")),
    )
    assert found.move == MoveConfig(
        forward_buffer=32 * MIB, write_deadline_ms=1500, keep_source_seconds=60, streams_per_nic=2
    )


def test_what_is_left_out_has_the_documented_value(tmp_path: Path) -> None:
    found = config(tmp_path, LEAST)
    assert (found.data_port, found.state) == (17450, Path("/var/lib/kvmove/agent"))
    assert (found.run, found.pki) == (Path("/run/kvmove/agent"), Path("/var/lib/kvmove/pki/agent"))
    assert found.move == MoveConfig(
        forward_buffer=64 * MIB, write_deadline_ms=2000, keep_source_seconds=3600, streams_per_nic=2
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('colour = "red"', "colour: unknown key"),
        ('contrl = "x:1"', "did you mean control"),
        ("[move]\nspeed = 1", "move.speed: unknown key"),
        ('[[nic]]\nname = "mig0"\nspeed = "fast"', "nic.0.speed: 'fast' is not a rate"),
        ('[[nic]]\nname = "a/b"', "nic.0.name"),
        ('[[nic]]\nname = "mig0"\n[[nic]]\nname = "mig0"', "nic mig0 is listed twice"),
        ('[[datastore]]\nname = "a"\npath = "disks"', "datastore.0.path: disks must be an absolute path"),
        ('[[datastore]]\nname = "../x"\npath = "/d"', "datastore.0.name"),
        ('[[datastore]]\nname = "a"\npath = "/d"\ndevices = ["/srv/x"]', "/srv/x must be /dev/ and names"),
        ('[[datastore]]\nname = "a"\npath = "/d"\ndevices = ["/dev/../x"]', "/dev/../x must be /dev/ and names"),
        ('[[datastore]]\nname = "a"\npath = "/d"\ndevices = ["/dev/**"]', "must be /dev/ and names"),
        (
            '[[datastore]]\nname = "a"\npath = "/d"\ndevices = ["/dev/sdb", "/dev/sdb"]',
            "a datastore's device /dev/sdb is listed twice",
        ),
        (
            '[[datastore]]\nname = "a"\npath = "/d"\n[[datastore]]\nname = "b"\npath = "/d"',
            "the folder of a datastore, /d is listed twice",
        ),
        ("data_port = 0", "data_port"),
        ('run = "/' + "x" * 60 + '"', "sockets below it could not be opened"),
        ('[move]\nforward_buffer = "12 apples"', "move.forward_buffer: '12 apples' is not a size"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config(tmp_path, f"{LEAST}{line}\n")
    assert complaint in caught.value.detail
    assert str(tmp_path / "agent.toml") in caught.value.detail
    assert "agent.toml" in caught.value.hint


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        config(tmp_path, 'name = "-"\ncontrol = "nowhere"\nmanager = "http://plain"\n')
    assert all(key in caught.value.detail for key in ("name:", "control:", "manager:"))
