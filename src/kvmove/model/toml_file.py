"""Reads a TOML file into a model, and says what is wrong in the words of the file, not of the parser.

Invariant: what comes out is complete and valid; nothing is guessed and no unknown key is passed over.
It does not search for files and knows no defaults: both belong to the caller.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kvmove.errors import InvalidInput

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, into: type[Model]) -> Model:
    """The model that the file at `path` describes.

    :raise InvalidInput: the file cannot be read, is no TOML, or does not fit the model. Every fault is named at once.
    """
    return fit(parse_toml(read_text(path), str(path)), into, str(path))


def read_text(path: Path) -> str:
    """What the file at `path` holds.

    :raise InvalidInput: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text in UTF-8") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="give the path of a TOML file") from error


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """`text` as TOML; `name` is what to call it in an error.

    :raise InvalidInput: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{name} is not valid TOML: {error}") from error


def fit(raw: dict[str, Any], into: type[Model], name: str) -> Model:
    """`raw` as the model.

    :raise InvalidInput: it does not fit, with every fault.
    """
    try:
        return into.model_validate(raw)
    except ValidationError as error:
        raise InvalidInput(f"{name} is not valid: {explain(error, into)}") from error


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """All faults of a failed validation as one line: `disks.0.size: …; colour: unknown key`."""
    return "; ".join(explain_fault(fault["type"], fault["loc"], fault["msg"], model) for fault in error.errors())


def explain_fault(kind: str, where: tuple[int | str, ...], message: str, model: type[BaseModel] | None = None) -> str:
    """One fault in plain words; for an unknown key at the top of `model`, with the key that may have been meant."""
    place = ".".join(str(part) for part in where) or "the whole"
    if kind == "extra_forbidden":
        return f"{place}: unknown key{_suggestion(where, model)}"
    if kind == "missing":
        return f"{place}: is missing"
    return f"{place}: {message.removeprefix('Value error, ')}"


def _suggestion(where: tuple[int | str, ...], model: type[BaseModel] | None) -> str:
    if model is None or len(where) != 1:
        return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(str(where[0]), known, n=1)
    return f", did you mean {close[0]}?" if close else f" (known: {', '.join(sorted(known))})"
