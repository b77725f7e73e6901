"""The engine's package as `tracebility up` starts it: a smoke test. Its own suite is tests/engine (`make test-all`)."""

from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import clickhouse_connect


def test_the_engine_answers_clickhouses_own_client(stores: Any) -> None:
    with clickhouse_connect.get_client(dsn=stores.clickhouse_url) as client:
        rows = client.query("SELECT number FROM numbers(3)").result_rows
        names = client.query("SELECT name FROM system.tables WHERE database = 'tracebility'").result_columns[0]
    assert rows == [(0,), (1,), (2,)]
    assert {"span", "run", "billing_meter"} <= set(names)


def test_the_engine_signs_each_number_differently_and_tells_no_key(stores: Any) -> None:
    address = urlsplit(stores.clickhouse_url).netloc.rpartition("@")[2]
    signed = {urlopen(f"http://{address}/proof?nonce={nonce}", timeout=10).read() for nonce in ("1", "2")}
    assert {len(text) for text in signed} == {64}
    assert len(signed) == 2
