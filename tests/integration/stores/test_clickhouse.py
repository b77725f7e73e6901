"""The data plane's client, on a real engine: what an insert promises, and what each failure is called."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.stores import clickhouse
from tracebility.stores.clickhouse import INSERT_SETTINGS, Engine, EngineRejected

ROWS = 50_000
BLOCK = "SELECT number AS a, repeat(toString(number), 20) AS b FROM numbers({rows:UInt64})"


@pytest.fixture
async def engine(databases: Any) -> AsyncIterator[Engine]:
    engine = await clickhouse.connect(databases.clickhouse_url)
    await engine.execute(
        "CREATE TABLE t (a UInt64, b LowCardinality(String), c UInt8 DEFAULT 7) ENGINE = MergeTree ORDER BY a"
    )
    yield engine
    await engine.close()


async def block(engine: Engine, rows: int = ROWS) -> bytes:
    return await engine.query_raw(BLOCK, "Native", {"rows": rows})


async def stored(engine: Engine) -> int:
    return int((await engine.query("SELECT count() FROM t")).rows[0][0])


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_every_row_sent_is_stored_whatever_the_compression(
    databases: Any, engine: Engine, compression: str
) -> None:
    sender = await clickhouse.connect(f"{databases.clickhouse_url}?compression={compression}")
    await sender.insert_native("t", ["a", "b"], ROWS, await block(sender))
    await sender.close()
    digest = "SELECT count(), sum(cityHash64(a, toString(b))), min(c) FROM {table:Identifier}"
    of_source = f"SELECT count(), sum(cityHash64(a, b)), 7 FROM ({BLOCK})"
    assert (await engine.query(digest, {"table": "t"})).rows == (await engine.query(of_source, {"rows": ROWS})).rows


async def test_another_number_of_rows_than_sent_is_no_success(engine: Engine) -> None:
    with pytest.raises(StoreUnavailable, match="50000 of 50001 rows were written to t"):
        await engine.insert_native("t", ["a", "b"], ROWS + 1, await block(engine))


async def test_a_torn_block_is_bad_data_and_leaves_nothing(engine: Engine) -> None:
    whole = await block(engine)
    with pytest.raises(EngineRejected) as refused:
        await engine.insert_native("t", ["a", "b"], ROWS, whole[: len(whole) // 2])
    assert refused.value.code in clickhouse.BAD_DATA
    assert await stored(engine) == 0


async def test_a_missing_table_is_not_the_fault_of_the_data(engine: Engine) -> None:
    with pytest.raises(StoreUnavailable):
        await engine.insert_native("not_there", ["a", "b"], 1, await block(engine, 1))


async def test_a_wrong_query_is_rejected_with_the_engines_code(engine: Engine) -> None:
    with pytest.raises(EngineRejected) as refused:
        await engine.query("SELECT no_such_column FROM t")
    assert refused.value.code == 47
    assert "no_such_column" in refused.value.detail


async def test_parameters_are_bound_and_times_come_with_their_zone(engine: Engine) -> None:
    found = await engine.query(
        "SELECT {text:String} AS text, {id:UUID} AS id, toDateTime64(0, 6, 'UTC') AS at, {list:Array(String)} AS list",
        {"text": "it's {a:b} \\ \n", "id": (sent := uuid4()), "list": ["a'", "b"]},
    )
    assert found.dicts() == [
        {"text": "it's {a:b} \\ \n", "id": sent, "at": datetime(1970, 1, 1, tzinfo=UTC), "list": ["a'", "b"]}
    ]


async def test_a_statement_takes_more_parameters_than_an_address_holds(engine: Engine) -> None:
    """A recompute names the traces of a whole batch: 5,000 ids are 230 KB, and an address ends at 64."""
    ids = [str(uuid4()) for _ in range(5_000)]
    statement = "INSERT INTO t (a, b) SELECT 1, id FROM (SELECT arrayJoin({ids:Array(String)}) AS id)"
    await engine.execute(statement, {"ids": ids})
    assert await stored(engine) == 5_000


async def test_small_rows_come_back_as_they_were(engine: Engine) -> None:
    await engine.execute("CREATE TABLE s (id UUID, at DateTime64(6, 'UTC'), m Map(String, String)) ENGINE = Memory")
    row = (uuid4(), datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=UTC), {"k": "ü'\"\n"})
    await engine.insert_rows("s", ["id", "at", "m"], [row])
    assert (await engine.query("SELECT * FROM s")).rows == [row]


async def test_every_setting_of_an_insert_is_known_to_this_engine(engine: Engine) -> None:
    assert engine._insert_settings == INSERT_SETTINGS


async def test_queries_run_side_by_side(engine: Engine) -> None:
    found = await asyncio.gather(*(engine.query("SELECT {n:UInt8}", {"n": n}) for n in range(20)))
    assert [result.rows[0][0] for result in found] == list(range(20))


async def test_a_cut_connection_is_a_store_that_is_away(databases: Any, wire: Any) -> None:
    async with wire(databases.clickhouse_url) as line:
        engine = await clickhouse.connect(line.dsn)
        await line.cut()
        with pytest.raises(StoreUnavailable, match=r"^clickhouse: "):
            await engine.query("SELECT 1")
        with pytest.raises(StoreUnavailable, match=r"^clickhouse: "):
            await engine.insert_native("t", ["a"], 1, b"")
        await engine.close()


async def test_a_refused_dsn_is_one_line_without_the_password(stores: Any, wrong_password: Any) -> None:
    for url in (
        wrong_password(stores.clickhouse_url),
        urlsplit(stores.clickhouse_url)._replace(path="/absent").geturl(),
    ):
        with pytest.raises(ConfigurationError) as refused:
            await clickhouse.connect(url)
        assert str(refused.value).startswith("TRACEBILITY_CLICKHOUSE_URL: the store at 127.0.0.1:")
        assert "n0t-the-pass" not in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="compression must be one of none, lz4, zstd"):
        await clickhouse.connect("http://127.0.0.1/tracebility?compression=brotli")
