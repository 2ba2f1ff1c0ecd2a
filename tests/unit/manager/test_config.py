"""manager.toml: what it gives, and what it says of a fault."""

from pathlib import Path

import pytest

from kvmove.errors import InvalidInput
from kvmove.manager.config import load_config
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('lisen = "x"\n', "lisen: unknown key, did you mean listen"),
        ('colour = "red"\n', r"colour: unknown key \(known: host, listen, pki"),
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
