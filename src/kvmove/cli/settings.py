"""Which manager a command talks to: flag, environment, or a context of the user's configuration file.

# ~/.config/kvmove/config.toml
current = "cupboard"

[contexts.cupboard]
server = "https://10.0.0.1:7440"
pki = "~/.config/kvmove/cupboard"         # your certificate, or instead of it
token = "kvmove_..."                      # a user's token, and
ca = "~/.config/kvmove/cupboard-ca.pem"   # the authority that the manager is known by
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from kvmove.cli.options import Options
from kvmove.errors import InvalidInput, NotAllowed
from kvmove.model.strict import Strict
from kvmove.model.toml_file import read_toml

DEFAULT_SERVER = "unix:/run/kvmove/manager.sock"


def _server(text: str) -> str:
    if not text.startswith(("https://", "unix:/")):
        raise ValueError(f"{text!r} is no manager; write https://HOST:7440 or unix:/PATH")
    return text


class ContextEntry(Strict):
    """One manager. For https, `pki` is the folder with `ca.pem`, `cert.pem` and `key.pem`; or there is a user's
    `token`, and `ca` is the authority's certificate."""

    server: Annotated[str, AfterValidator(_server)]
    pki: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    token: Annotated[str | None, Field(min_length=1, repr=False)] = None
    ca: Annotated[Path, AfterValidator(Path.expanduser)] | None = None


class UserConfig(Strict):
    """The user's file. `current` is the context used when none is named."""

    current: str | None = None
    contexts: dict[str, ContextEntry] = {}


class Target(NamedTuple):
    """The manager to talk to: with a certificate, with a user's token, or neither on a Unix socket."""

    server: str
    pki: Path | None
    token: str | None = None
    ca: Path | None = None


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/kvmove`, by default `~/.config/kvmove`."""
    base = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "kvmove"


def find_target(options: Options, environment: Mapping[str, str] = os.environ) -> Target:
    """The manager that is meant: by flag, else by environment, else by the user's file, else the local one.

    A token wins over a certificate where both are named at the same place, and counts over https alone.

    :raise InvalidInput: the address, the context or the file is not valid.
    :raise NotAllowed: the file holds a token and can be read by others.
    """
    folder = config_folder(environment)
    entry = _entry(options, environment, folder / "config.toml")
    if entry.server.startswith("unix:"):
        return Target(entry.server, None)
    ca = Path(environment["KVMOVE_CA"]) if environment.get("KVMOVE_CA") else entry.ca or folder / "ca.pem"
    if options.pki:
        return Target(entry.server, options.pki)
    if environment.get("KVMOVE_TOKEN"):
        return Target(entry.server, None, environment["KVMOVE_TOKEN"], ca)
    if environment.get("KVMOVE_PKI"):
        return Target(entry.server, Path(environment["KVMOVE_PKI"]))
    if entry.token:
        return Target(entry.server, None, entry.token, ca)
    return Target(entry.server, entry.pki or folder / "pki")


def _entry(options: Options, environment: Mapping[str, str], file: Path) -> ContextEntry:
    """A flag wins over the environment, whichever of server and context either names."""
    for server, context in (
        (options.server, options.context),
        (environment.get("KVMOVE_SERVER"), environment.get("KVMOVE_CONTEXT")),
    ):
        if server:
            return _direct(server)
        if context:
            return _context(context, file)
    return _context(None, file)


def _direct(server: str) -> ContextEntry:
    try:
        return ContextEntry(server=_server(server))
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _context(wanted: str | None, file: Path) -> ContextEntry:
    config = read_toml(file, UserConfig) if file.exists() else UserConfig()
    if any(entry.token for entry in config.contexts.values()) and file.stat().st_mode & 0o077:
        raise NotAllowed(f"{file} holds a token and can be read by others", hint=f"chmod 600 {file}")
    name = wanted or config.current
    if name is None:
        return ContextEntry(server=DEFAULT_SERVER)
    if name not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        raise InvalidInput(f"there is no context {name!r} in {file}", hint=f"there are: {known}")
    return config.contexts[name]
