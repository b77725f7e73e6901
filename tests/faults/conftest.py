from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.harness.installation import Installation

ROUNDS_IN_EVERY_TEST_RUN = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=ROUNDS_IN_EVERY_TEST_RUN, help="rounds of random kills")
    parser.addoption("--soak-s", type=float, default=None, help="seconds of the soak; a short one if absent")
    parser.addoption(
        "--fault-seed", type=int, default=None, help="seed of random faults; a new one, printed, if absent"
    )


@pytest.fixture
async def breakable(tmp_path: Path) -> AsyncIterator[Installation]:
    """A ``tracebility up`` of the test's own, to be broken."""
    async with Installation(tmp_path / "up") as installation:
        yield installation


@dataclass(frozen=True)
class Stores:
    """Stores that these tests starve and fill, so they are not the ones that other tests share."""

    pg_dsn: str
    ready: dict[str, Any]


@pytest.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    """The three stores without targets, for tests that put weather between the two."""
    async with Installation(tmp_path_factory.mktemp("weather-stores"), "--only-stores") as installation:
        yield Stores(installation.ready["pg_dsn"], installation.ready)
