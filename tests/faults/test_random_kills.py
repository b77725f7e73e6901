import secrets
import sys

import pytest
from harness import rounds
from harness.installation import Installation


@pytest.mark.timeout(0)
async def test_random_kills_lose_and_double_nothing(breakable: Installation, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--rounds", default=4)
    seed = request.config.getoption("--fault-seed", default=None)
    seed = secrets.randbelow(100_000) if seed is None else seed
    print(f"\nrandom kills: {count} rounds, seed {seed}")
    soak_s = request.config.getoption("--soak-s", default=None)
    if soak_s is not None:
        done = await rounds.run(breakable, sys.maxsize, seed, print, soak_s)
    else:
        done = await rounds.run(breakable, count, seed, print)
        assert len(done) == count
    assert done[-1].verdict.acknowledged > 0
