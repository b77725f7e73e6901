import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness.installation import Installation

ROUNDS_IN_EVERY_TEST_RUN = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=ROUNDS_IN_EVERY_TEST_RUN, help="rounds of random kills")
    parser.addoption(
        "--fault-seed", type=int, default=None, help="seed of random faults; printed, new each time if absent"
    )


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    """A ``tracebility up`` of the test's own, to be broken."""
    async with Installation(tmp_path) as installation:
        yield installation
