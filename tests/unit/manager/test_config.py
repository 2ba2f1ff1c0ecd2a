"""manager.toml: what it gives, and what it says of a fault."""

from pathlib import Path

import pytest

from kvmove.errors import InvalidInput
from kvmove.manager.config import EtcdSettings, SqliteSettings, load_config
from kvmove.model.move import HostRef

GOOD = """
listen = "10.0.0.1:7440"
state = "/srv/kvmove"

[[host]]
name = "h1"
control = "10.0.0.1:7441"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "manager.toml"
    file.write_text(text)
    return file


def test_what_is_not_said_is_the_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.state == Path("/srv/kvmove")
    assert config.socket == Path("/run/kvmove/manager.sock")
    assert config.hosts == (HostRef(name="h1", control="10.0.0.1:7441"),)
    assert config.registry == SqliteSettings()


def test_the_registry_may_be_etcd(tmp_path: Path) -> None:
    ends = '["https://10.0.0.11:2379", "https://etcd.example/", "http://127.0.0.1:2379", "http://[::1]:2379"]'
    registry = load_config(write(tmp_path, GOOD + f'[registry]\nengine = "etcd"\nendpoints = {ends}\n')).registry
    assert isinstance(registry, EtcdSettings) and registry.encrypted
    assert (len(registry.endpoints), registry.prefix) == (4, "/kvmove")
    assert registry.key == Path("/var/lib/kvmove/pki/etcd/key.pem")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('engine = "consul"', "'consul' .* expected tags: 'sqlite', 'etcd'"),
        ('engine = "sqlite"\nendpoints = ["https://a:2379"]', r"registry\.sqlite\.endpoints: unknown key"),
        ('engine = "etcd"', r"registry\.etcd\.endpoints: is missing"),
        ('engine = "etcd"\nendpoints = []', "at least 1 item"),
        ('engine = "etcd"\nendpoints = ["10.0.0.11:2379"]', "write for example https://"),
        ('engine = "etcd"\nendpoints = ["https://10.0.0.11:2379/v3"]', "is no address of etcd"),
        ('engine = "etcd"\nendpoints = ["https://root:secret@10.0.0.11"]', "is no address of etcd"),
        ('engine = "etcd"\nendpoints = ["http://10.0.0.11:2379"]', "without encryption; use https"),
        ('engine = "etcd"\nendpoints = ["http://etcd:2379"]', "without encryption; use https"),
        ('engine = "etcd"\nendpoints = ["https://a:2379"]\nprefix = "kvmove"', "prefix: String should match"),
        ('engine = "etcd"\nendpoints = ["https://a:2379"]\nprefix = "/kvmove/"', "prefix: String should match"),
    ],
)
def test_a_fault_of_the_registry_is_told_too(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load_config(write(tmp_path, f"{GOOD}\n[registry]\n{settings}\n"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('lisen = "x"\n', "lisen: unknown key, did you mean listen"),
        (
            'colour = "red"\n',
            r"colour: unknown key \(known: admission, authority, balance, certificate_days, host, listen, pki",
        ),
        ('listen = "here"\n', "'here' is not an address"),
        ("listen = 7440\n", "listen: Input should be a valid string"),
        ("listen = [\n", "is not valid TOML"),
        ('listen = "a:1"\n[[host]]\nname = "../x"\ncontrol = "a:1"\n', "host.0.name"),
        ('[[host]]\nname = "h1"\n', r"listen: is missing; host.0.control: is missing"),
        ('listen = "a:1"\n' + '[[host]]\nname = "h1"\ncontrol = "a:1"\n' * 2, "host h1 is listed twice"),
    ],
)
def test_a_fault_is_told_in_the_words_of_the_file(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load_config(write(tmp_path, change))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manager.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="not text in UTF-8"):
        load_config(tmp_path / "manager.toml")
