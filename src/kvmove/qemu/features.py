"""What this QEMU can do, by its own description of its interface (`query-qmp-schema`), not by its version.

Distributions carry patches back and leave options out; the schema tells what is there. Not done here: bugs, which no
schema shows (see `accelerator.memory_is_safe`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvmove.qemu.monitor import Monitor

_SCHEMA_SECONDS = 20.0


class Features(NamedTuple):
    """Names as QMP has them: commands, migration capabilities, migration parameters."""

    version: str
    commands: frozenset[str]
    capabilities: frozenset[str]
    parameters: frozenset[str]


async def find_features(monitor: Monitor) -> Features:
    """Ask QEMU. The answer does not change while it runs; it is some hundred KiB, so ask once.

    :raise Unreachable: QEMU does not answer.
    """
    version = await monitor.execute("query-version")
    schema = await monitor.execute("query-qmp-schema", timeout=_SCHEMA_SECONDS)
    return parse_schema("{major}.{minor}.{micro}".format(**version["qemu"]), schema)


def parse_schema(version: str, schema: list[dict[str, Any]]) -> Features:
    """Pure: read the three sets out of the schema, whose types have numbers for names."""
    types = {entry["name"]: entry for entry in schema}
    commands = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    return Features(
        version,
        frozenset(commands),
        frozenset(_capabilities(types)),
        frozenset(_members(types, _argument(types, "migrate-set-parameters"))),
    )


def _capabilities(types: dict[str, dict[str, Any]]) -> list[str]:
    """migrate-set-capabilities takes `capabilities`, an array of {capability: enum, state: bool}."""
    array = _members(types, _argument(types, "migrate-set-capabilities")).get("capabilities", "")
    element = types.get(array, {}).get("element-type", "")
    enum = types.get(_members(types, element).get("capability", ""), {})
    return list(enum.get("values", []))


def _argument(types: dict[str, dict[str, Any]], command: str) -> str:
    return str(types.get(command, {}).get("arg-type", ""))


def _members(types: dict[str, dict[str, Any]], name: str) -> dict[str, str]:
    return {member["name"]: member["type"] for member in types.get(name, {}).get("members", [])}
