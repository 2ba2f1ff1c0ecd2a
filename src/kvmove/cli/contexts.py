"""Writes the contexts of the user's configuration file; `settings` reads them.

Invariant: the file is replaced in one piece, and every context but the one meant stays as it was. Comments are lost:
a file that is written by a program is the program's. It may hold a token, so it is its owner's alone (0600).
"""

import difflib
import json
from collections.abc import Mapping
from os import environ

from kvmove.cli.settings import ContextEntry, UserConfig, config_folder
from kvmove.errors import NotFound
from kvmove.model.toml_file import read_toml
from kvmove.pki.private_files import write_private


def use_context(name: str, entry: ContextEntry, environment: Mapping[str, str] = environ) -> str | None:
    """Add or replace a context and make it the current one; returns the name of the one before, to go back to.

    :raise InvalidInput: the file that is there is damaged; it stays as it is.
    """
    config = _read(environment)
    _write(UserConfig(current=name, contexts={**config.contexts, name: entry}), environment)
    return config.current if config.current != name else None


def set_context(name: str, entry: ContextEntry, environment: Mapping[str, str] = environ) -> None:
    """Add or replace a context; the current one stays, unless there is none yet.

    :raise InvalidInput: the file that is there is damaged; it stays as it is.
    """
    config = _read(environment)
    current = config.current or name
    _write(UserConfig(current=current, contexts={**config.contexts, name: entry}), environment)


def choose_context(name: str, environment: Mapping[str, str] = environ) -> None:
    """Make a context that there is the current one.

    :raise NotFound: there is no such context.
    :raise InvalidInput: the file that is there is damaged; it stays as it is.
    """
    config = _read(environment)
    if name not in config.contexts:
        close = difflib.get_close_matches(name, config.contexts, n=1)
        said = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(config.contexts)) or 'none'}"
        raise NotFound(f"there is no context {name!r}", hint=said)
    _write(config.model_copy(update={"current": name}), environment)


def known_contexts(environment: Mapping[str, str] = environ) -> UserConfig:
    """The user's file; empty when there is none.

    :raise InvalidInput: it is damaged.
    """
    return _read(environment)


def forget_context(name: str, back_to: str | None = None, environment: Mapping[str, str] = environ) -> None:
    """Remove a context; if it is the current one, `back_to` becomes current if it is still there, else none.

    :raise InvalidInput: the file that is there is damaged; it stays as it is.
    """
    config = _read(environment)
    contexts = {known: entry for known, entry in config.contexts.items() if known != name}
    current = config.current if config.current != name else back_to
    if len(contexts) < len(config.contexts):
        _write(UserConfig(current=current if current in contexts else None, contexts=contexts), environment)


def _read(environment: Mapping[str, str]) -> UserConfig:
    file = config_folder(environment) / "config.toml"
    return read_toml(file, UserConfig) if file.exists() else UserConfig()


def _write(config: UserConfig, environment: Mapping[str, str]) -> None:
    file = config_folder(environment) / "config.toml"
    if config == UserConfig():
        file.unlink(missing_ok=True)
        return
    lines = [f"current = {json.dumps(config.current)}", ""] if config.current else []
    for name, entry in config.contexts.items():
        lines += [f"[contexts.{json.dumps(name)}]", f"server = {json.dumps(entry.server)}"]
        given = {"pki": entry.pki, "token": entry.token, "ca": entry.ca}
        lines += [*(f"{key} = {json.dumps(str(value))}" for key, value in given.items() if value), ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, "\n".join(lines).encode())
