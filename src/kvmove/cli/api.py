"""`kvmove api`: any request to the manager, for scripts and for what has no command."""

import json
import sys
from typing import Any
from urllib.parse import urlencode

import click

from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.cli.param_types import OneOf
from kvmove.cli.session import ask
from kvmove.errors import InvalidInput

_PREFIX = "/api/v1/"


@click.command(cls=Command)
@click.argument("method", type=OneOf(("GET", "POST", "PUT", "PATCH", "DELETE")))
@click.argument("path")
@click.option("-f", "--field", "fields", multiple=True, metavar="KEY=VALUE", help="A field; may be repeated.")
@click.option("--input", "source", type=click.File(), metavar="FILE", help="The body, as JSON; - is stdin.")
@pass_options
def api(options: Options, method: str, path: str, fields: tuple[str, ...], source: Any) -> None:
    """Send METHOD to PATH and print the answer. A PATH without a slash before it is below /api/v1.

    With GET and DELETE fields are the query, else the body: a VALUE that is JSON is taken as such, any other is text;
    KEY may be A.B for a field in a field. The interface describes itself: kvmove api GET /openapi.json.
    """
    asked = path if path.startswith("/") else _PREFIX + path
    given = [_field(field) for field in fields]
    body: Any = None
    if method in ("GET", "DELETE"):
        query = urlencode([(key, value if isinstance(value, str) else json.dumps(value)) for key, value in given])
        asked += f"{'&' if '?' in asked else '?'}{query}" if query else ""
    else:
        body = _body(source.read() if source else "{}")
        for key, value in given:
            _put(body, key, value)
    if asked.split("?")[0].endswith("/events"):
        raise InvalidInput(f"{path} is a stream without an end", hint="use kvmove events --follow")
    kind, text = ask(options, lambda manager: manager.raw(method, asked, body))
    _print(Printer(options), kind, text)


def _field(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _body(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"the body is no JSON: {error}") from error


def _put(body: Any, key: str, value: Any) -> None:
    *above, last = key.split(".")
    for name in above:
        body = body.setdefault(name, {}) if isinstance(body, dict) else None
    if not isinstance(body, dict):
        raise InvalidInput(f"{key} is no field of an object")
    body[last] = value


def _print(printer: Printer, kind: str, text: str) -> None:
    if kind != "application/json":
        sys.stdout.write(text)
        return
    if not text:
        return
    data = json.loads(text)
    if printer.options.output is Form.YAML:
        printer.yaml(data)
    elif printer.options.output is Form.NDJSON:
        for item in data if isinstance(data, list) else [data]:
            printer.line(json.dumps(item, ensure_ascii=False))
    else:
        printer.json(data)
