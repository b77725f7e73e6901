"""What a service says when a store refuses it, or is not there."""

import pytest

from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.stores.start import Refused, place, until_reachable

VARIABLE = "TRACEBILITY_PG_DSN"
DSN = "postgresql://me:s3cret%21@db.example:5432/tracebility"


async def test_a_store_that_comes_up_in_time_is_waited_for() -> None:
    failures = [StoreUnavailable("postgres", "starting up")] * 2

    async def probe() -> None:
        if failures:
            raise failures.pop()

    await until_reachable(VARIABLE, DSN, probe)
    assert not failures


async def test_silence_is_one_line_with_variable_place_and_fix() -> None:
    async def probe() -> None:
        raise StoreUnavailable("postgres", "connect\nfailed for s3cret! at postgresql://me:s3cret%21@db.example")

    with pytest.raises(ConfigurationError) as refused:
        await until_reachable(VARIABLE, DSN, probe, wait_s=0)
    assert str(refused.value) == (
        "TRACEBILITY_PG_DSN: no usable answer from db.example:5432 "
        "(connect failed for *** at postgresql://me:***@db.example). "
        "Start the store there, or correct the host and port in TRACEBILITY_PG_DSN."
    )


async def test_a_refusal_is_not_waited_for() -> None:
    asked = []

    async def probe() -> None:
        asked.append(1)
        raise Refused("postgres", "password authentication failed")

    with pytest.raises(
        ConfigurationError, match=r"db\.example:5432 refuses this DSN \(password authentication failed\)"
    ):
        await until_reachable(VARIABLE, DSN, probe, wait_s=60)
    assert asked == [1]


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        (DSN, "db.example:5432"),
        ("redis://[::1]:6379/0", "[::1]:6379"),
        ("unix:///run/valkey.sock", "/run/valkey.sock"),
        ("http://u:p@ch/tracebility", "ch"),
    ],
)
def test_a_place_has_no_credentials(dsn: str, where: str) -> None:
    assert place(dsn) == where
