"""Where doctor draws its lines: what no test can bring about on real stores is judged from what they would say."""

import time

import pytest

from tracebility.commands import doctor
from tracebility.commands.doctor import Verdict

DURABLE = {
    "aof_enabled": "1",
    "appendfsync": "always",
    "maxmemory_policy": "noeviction",
    "used_memory": "10",
    "maxmemory": "100",
}


@pytest.mark.parametrize(
    ("ahead_s", "verdict"),
    [(0.0, Verdict.OK), (-2.0, Verdict.NOTED), (2.0, Verdict.NOTED), (-60.0, Verdict.WRONG), (60.0, Verdict.WRONG)],
)
def test_a_clock_is_judged_by_how_far_it_is_off_either_way(ahead_s: float, verdict: Verdict) -> None:
    now = time.time()
    assert doctor._clock("redis", now + ahead_s, now).verdict is verdict


@pytest.mark.parametrize(
    ("free", "verdict"),
    [
        (doctor.LEAST_FREE_BYTES - 1, Verdict.WRONG),
        (doctor.LEAST_FREE_BYTES, Verdict.NOTED),
        (doctor.SCARCE_FREE_BYTES, Verdict.OK),
    ],
)
def test_a_disk_is_judged_by_what_is_free(free: int, verdict: Verdict) -> None:
    assert doctor._disk("disk", free).verdict is verdict


def test_a_store_that_is_too_old_is_wrong() -> None:
    assert doctor._version("redis", "6.2", False, "7.0").verdict is Verdict.WRONG
    assert doctor._numbers("6.2.14") < doctor.OLDEST_REDIS <= doctor._numbers("7.0.0") < doctor._numbers("10.1")


@pytest.mark.parametrize(
    ("said", "check", "verdict"),
    [
        ({}, "queue durability", Verdict.OK),
        ({"aof_enabled": "0"}, "queue durability", Verdict.WRONG),
        ({"appendfsync": None}, "queue durability", Verdict.NOTED),
        ({}, "queue memory", Verdict.OK),
        ({"used_memory": "81"}, "queue memory", Verdict.WRONG),
        ({"maxmemory": "0"}, "queue memory", Verdict.NOTED),
        ({"maxmemory_policy": "allkeys-lru"}, "queue eviction", Verdict.WRONG),
    ],
)
def test_a_queue_is_judged_by_what_it_would_lose(said: dict[str, str | None], check: str, verdict: Verdict) -> None:
    server = {name: value for name, value in (DURABLE | said).items() if value is not None}
    findings = {finding.check: finding for finding in doctor._queue_settings(server)}
    assert findings[check].verdict is verdict
    if verdict is Verdict.WRONG:
        assert findings[check].do
