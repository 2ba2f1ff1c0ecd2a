"""`kvmove config`: which managers you know, which one a command asks, and why that one."""

import os
from collections.abc import Mapping
from pathlib import Path

import click
from pydantic import BaseModel, ValidationError
from rich.text import Text

from kvmove.cli.contexts import choose_context, forget_context, known_contexts, set_context
from kvmove.cli.options import FORMS, WIDE, Form, Group, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer
from kvmove.cli.param_types import OneOf
from kvmove.cli.settings import DEFAULT_SERVER, ContextEntry, UserConfig, config_folder
from kvmove.errors import InvalidInput, NotFound
from kvmove.model.toml_file import explain

KEYS = ("server", "pki", "output", "color")


class Context(BaseModel):
    """One context as it is listed."""

    name: str
    current: bool
    server: str
    pki: Path | None = None


class Explained(BaseModel):
    """A setting: the value that counts, where it is from, and what it won over."""

    key: str
    value: str
    source: str
    over: tuple[str, ...] = ()


@click.group(cls=Group)
def config() -> None:
    """Your own configuration file: contexts, each a manager by a name."""


@config.command("view")
@pass_options
def view(options: Options) -> None:
    """List the contexts; the current one is asked when nothing else is said."""
    known = known_contexts()
    found = [
        Context(name=name, current=name == known.current, server=entry.server, pki=entry.pki)
        for name, entry in known.contexts.items()
    ]
    Printer(options).items(found, _CONTEXTS)


@config.command("set")
@click.argument("name", metavar="CONTEXT")
@click.option("--url", required=True, metavar="URL", help="The manager, https://HOST:7440 or unix:/PATH.")
@click.option("--certificate", type=click.Path(path_type=Path), metavar="FOLDER", help="Your certificate, for https.")
@pass_options
def set_command(options: Options, name: str, url: str, certificate: Path | None) -> None:
    """Add a context, or change one. The first one becomes the current one."""
    try:
        entry = ContextEntry(server=url, pki=certificate and certificate.absolute())
    except ValidationError as error:
        raise InvalidInput(explain(error)) from error
    set_context(name, entry)
    Printer(options).note(f"Context {name} is {url}.")


@config.command("use-context")
@click.argument("name", metavar="CONTEXT")
@pass_options
def use_context(options: Options, name: str) -> None:
    """Make a context the current one."""
    choose_context(name)
    Printer(options).note(f"Commands ask {name} from now on.")


@config.command("remove")
@click.argument("name", metavar="CONTEXT")
@pass_options
def remove(options: Options, name: str) -> None:
    """Forget a context. What it leads to is not touched."""
    if name not in known_contexts().contexts:
        raise NotFound(f"there is no context {name!r}", hint="kvmove config view lists them")
    forget_context(name)
    Printer(options).note(f"Context {name} is forgotten.")


@config.command("explain")
@click.argument("key", required=False, type=OneOf(KEYS))
@pass_options
def explain_command(options: Options, key: str | None) -> None:
    """Say which value a setting has, where it is from, and what it wins over."""
    found = [it for it in explained(options, known_contexts(), os.environ) if key in (None, it.key)]
    Printer(options).items(found, _EXPLAINED)


def explained(options: Options, known: UserConfig, environment: Mapping[str, str]) -> list[Explained]:
    """Every setting, from the same places in the same order as `settings.find_target` looks at them. Pure."""
    file = str(config_folder(environment) / "config.toml")
    named = _context_value
    server = [
        (options.server, "--server"),
        (named(options.context, known, "server"), f"--context {options.context}"),
        (environment.get("KVMOVE_SERVER"), "KVMOVE_SERVER"),
        (named(environment.get("KVMOVE_CONTEXT"), known, "server"), "KVMOVE_CONTEXT"),
        (named(known.current, known, "server"), f"current context {known.current} in {file}"),
        (DEFAULT_SERVER, "default"),
    ]
    pki = [
        (str(options.pki) if options.pki else None, "--pki"),
        (environment.get("KVMOVE_PKI"), "KVMOVE_PKI"),
        (named(_context_of(options, known, environment), known, "pki"), "the context that is asked"),
        (str(config_folder(environment) / "pki"), "default"),
    ]
    output = [(_form(options), "-o or KVMOVE_OUTPUT"), (FORMS[0], "default")]
    color = [
        ("no" if options.color is False else None, "--no-color"),
        ("no" if environment.get("NO_COLOR") else None, "NO_COLOR"),
        ("as the terminal can", "default"),
    ]
    return [_winner(*it) for it in (("server", server), ("pki", pki), ("output", output), ("color", color))]


def _context_of(options: Options, known: UserConfig, environment: Mapping[str, str]) -> str | None:
    """The context whose certificate counts: none where the server was named directly."""
    if options.server or options.context:
        return None if options.server else options.context
    if environment.get("KVMOVE_SERVER"):
        return None
    return environment.get("KVMOVE_CONTEXT") or known.current


def _context_value(name: str | None, known: UserConfig, field: str) -> str | None:
    entry = known.contexts.get(name) if name else None
    value = getattr(entry, field) if entry else None
    return str(value) if value else None


def _form(options: Options) -> str | None:
    if options.wide:
        return WIDE
    return None if options.output is Form.TABLE else str(options.output)


def _winner(key: str, candidates: list[tuple[str | None, str]]) -> Explained:
    there = [(value, source) for value, source in candidates if value]
    (value, source), *losers = there
    return Explained(key=key, value=value or "", source=source, over=tuple(f"{it[1]}: {it[0]}" for it in losers))


def _context_row(context: Context) -> Cells:
    return {
        "current": Text("*" if context.current else ""),
        "name": context.name,
        "server": context.server,
        "pki": str(context.pki or ""),
    }


def _explained_row(it: Explained) -> Cells:
    return {"key": it.key, "value": it.value, "from": it.source, "wins over": "\n".join(it.over)}


_CONTEXTS = Listing(
    _context_row,
    lambda it: it.name,
    "No contexts; the manager of this machine is asked.",
)
_EXPLAINED = Listing(_explained_row, lambda it: it.key, "")
