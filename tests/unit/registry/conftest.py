"""One real etcd for all tests of the registry; each takes a prefix of its own."""

import itertools
from collections.abc import Iterator

import pytest

from tests.support.etcd_members import EtcdMembers, serving

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdMembers]:
    with serving(tmp_path_factory.mktemp("etcd"), 1, tls=False) as members:
        yield members


@pytest.fixture
def prefix() -> str:
    return f"/kvmove/test{next(_NUMBERS)}"
