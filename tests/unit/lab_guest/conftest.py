"""The host's tools, compiled once for all tests."""

from pathlib import Path
from typing import NamedTuple

import pytest

from kvmove.lab.guest.image import build_tools


class Tools(NamedTuple):
    verify: Path
    prefill: Path


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(*build_tools(tmp_path_factory.mktemp("tools")))
