"""What QEMU says of a migration, in our units, and what it can do, by its schema."""

from typing import Any

import pytest

from kvmove.qemu.features import parse_schema
from kvmove.qemu.migration import MigrationInfo, MigrationParameters, Status, parse_info, parse_parameters

ACTIVE = {
    "status": "active",
    "setup-time": 23,
    "total-time": 1500,
    "expected-downtime": 300,
    "cpu-throttle-percentage": 40,
    "ram": {
        "total": 67575808,
        "transferred": 652259,
        "remaining": 8192,
        "dirty-pages-rate": 12,
        "page-size": 4096,
        "mbps": 80.0,
        "dirty-sync-count": 3,
    },
}


def test_pages_become_bytes_and_megabits_become_bytes_per_second() -> None:
    info = parse_info(ACTIVE)
    assert info == MigrationInfo(
        Status.ACTIVE,
        ram_total=67575808,
        ram_transferred=652259,
        ram_remaining=8192,
        dirty_rate=12 * 4096,
        rate=10_000_000,
        rounds=3,
        throttle=40,
        downtime_ms=300,
        setup_ms=23,
        total_ms=1500,
    )


def test_the_real_downtime_replaces_the_estimate() -> None:
    assert parse_info(ACTIVE | {"status": "completed", "downtime": 14}).downtime_ms == 14


def test_a_destination_that_tells_little_is_understood() -> None:
    assert parse_info({"status": "failed", "error-desc": "no route"}) == MigrationInfo(Status.FAILED, error="no route")
    assert parse_info({}).status is Status.NONE


def test_a_status_of_other_kinds_of_migration_is_neither_pause_nor_end() -> None:
    assert parse_info({"status": "postcopy-active"}).status is Status.ACTIVE


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        (MigrationParameters(), {}),
        (MigrationParameters(max_bandwidth=0), {"max-bandwidth": 0}),
        (MigrationParameters(downtime_limit_ms=300, throttle_max=99), {"downtime-limit": 300, "max-cpu-throttle": 99}),
    ],
)
def test_only_what_is_given_is_set(parameters: MigrationParameters, arguments: dict[str, int]) -> None:
    assert parameters.arguments() == arguments


SCHEMA: list[dict[str, Any]] = [
    {"name": "migrate", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
    {"name": "migrate-set-capabilities", "meta-type": "command", "arg-type": "10", "ret-type": "1"},
    {"name": "migrate-set-parameters", "meta-type": "command", "arg-type": "20", "ret-type": "1"},
    {"name": "10", "meta-type": "object", "members": [{"name": "capabilities", "type": "[11]"}]},
    {"name": "[11]", "meta-type": "array", "element-type": "11"},
    {
        "name": "11",
        "meta-type": "object",
        "members": [{"name": "capability", "type": "12"}, {"name": "state", "type": "bool"}],
    },
    {"name": "12", "meta-type": "enum", "values": ["events", "multifd"]},
    {"name": "20", "meta-type": "object", "members": [{"name": "max-bandwidth", "type": "int"}]},
]


def test_the_schema_is_followed_through_its_numbered_types() -> None:
    features = parse_schema("7.2.22", SCHEMA)
    assert features.commands == {"migrate", "migrate-set-capabilities", "migrate-set-parameters"}
    assert features.capabilities == {"events", "multifd"}
    assert features.parameters == {"max-bandwidth"}


def test_a_schema_without_migration_offers_none() -> None:
    features = parse_schema("99.0.0", [{"name": "quit", "meta-type": "command", "arg-type": "0", "ret-type": "1"}])
    assert (features.capabilities, features.parameters) == (frozenset(), frozenset())


def test_parameters_are_read_as_they_are_set() -> None:
    """A hold reads them and puts them back."""
    answer = {
        "max-bandwidth": 10**9, "downtime-limit": 125, "cpu-throttle-initial": 20, "cpu-throttle-increment": 10,
        "max-cpu-throttle": 99, "multifd-channels": 4,
    }  # fmt: skip
    read = parse_parameters(answer)
    assert read == MigrationParameters(10**9, 125, 20, 10, 99)
    assert read.arguments().items() <= answer.items()
