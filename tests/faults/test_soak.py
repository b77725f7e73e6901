import random
import secrets
from pathlib import Path

import numpy as np
import pytest
from tests.harness import soak
from tests.harness.payload import requests
from tests.harness.resends import regrouped

A_SHORT_SOAK_S = 6.0


@pytest.mark.timeout(0)
async def test_kills_partitions_and_resends_at_once_leave_every_number_equal(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--fault-seed", default=None)
    seed = secrets.randbelow(100_000) if seed is None else seed
    seconds = request.config.getoption("--soak-s", default=None) or A_SHORT_SOAK_S
    print(f"\nsoak: {seconds:.0f} s, seed {seed}")
    report = await soak.soak(tmp_path, seconds, seed, lambda line: print(line, flush=True))
    print(report)
    assert report.kills.total() + report.partitions.total() > 0
    for account in report.accounts:
        assert account.acknowledged > 0
        assert account.resent["same"] > 0
        assert account.resent["regrouped"] > 0


def test_regrouped_spans_are_the_same_spans_in_other_requests() -> None:
    sent = requests(3, spans=20)
    numbers = np.random.default_rng(1)
    stamps = [one.renew(numbers) for one in sent]
    parcels = regrouped([bytes(one.view) for one in sent], random.Random(1))
    assert sorted(id_ for one in parcels for id_ in one.stamp.spans) == sorted(id_ for s in stamps for id_ in s.spans)
    assert not {one.view for one in parcels} & {bytes(one.view) for one in sent}
