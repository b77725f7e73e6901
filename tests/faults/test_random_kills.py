import secrets

import pytest
from tests.harness import rounds
from tests.harness.installation import Installation


@pytest.mark.timeout(0)
async def test_random_kills_lose_and_double_nothing(breakable: Installation, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--rounds", default=4)
    seed = request.config.getoption("--fault-seed", default=None)
    seed = secrets.randbelow(100_000) if seed is None else seed
    print(f"\nrandom kills: {count} rounds, seed {seed}")
    done = await rounds.run(breakable, count, seed, print)
    assert len(done) == count
    assert done[-1].verdict.acknowledged > 0
