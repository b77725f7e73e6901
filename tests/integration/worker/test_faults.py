"""Entries that cannot be stored are set aside alone; stores that are away are waited for."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from tests.harness import streams as raw_streams
from typer.testing import CliRunner

from tracebility.cli import app
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.queries import query
from tracebility.stores.queue import worker_names
from tracebility.stores.queue.entries import MAYBE_DUPLICATE
from tracebility.tenant.dead_letters import FLAG_LIFE_MS, flag_key
from tracebility.tenant.shard_router import ALL_STREAMS, DEAD_LETTER_STREAM
from tracebility.worker import write
from tracebility.worker.columns import span_block
from tracebility.worker.reclaim import ALONE_FROM, APART_FROM, MAX_DELIVERIES, remove_ended_consumers

Make = Callable[..., Any]

GHOST = "elsewhere/1/1/0"
CLOCK, OUTCOMES = query("engine_clock"), query("known_outcomes")


@pytest.fixture
async def no_dead_letters(tenant: Any) -> None:
    await tenant.queue.remove_dead_letters(await tenant.queue.range(DEAD_LETTER_STREAM, count=1000))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take over at once what another holds."""
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 1)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_IDLE_MS", 1)


async def delivered_elsewhere(tenant: Any, span: Any, times: int) -> bytes:
    """The id of an entry that another worker was given so many times."""
    await tenant.queue.ensure_group([tenant.stream])
    [entry] = await tenant.send([span])
    await tenant.queue.read([tenant.stream], GHOST, 1)
    for _ in range(times - 1):
        await raw_streams.read_pending(tenant.queue, tenant.stream, GHOST, b"0", 1)
    return bytes(entry)


def reasons(letters: list[Any]) -> list[str]:
    return [letter.fields[b"reason"].decode() for letter in letters]


@pytest.mark.usefixtures("no_dead_letters")
async def test_an_envelope_that_cannot_be_read_is_set_aside_and_the_others_go_on(
    tenant: Any, worker: Make, spans: Make
) -> None:
    await tenant.send(b"\xff no protobuf", [spans(0)])
    await raw_streams.append(
        tenant.queue, [(tenant.stream, {"h": b"no header", "b": b""}), (tenant.stream, {"x": b"y"})]
    )
    await tenant.put(tenant.envelope(b"", source="morse"))
    async with worker() as running:
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 1
    letters = await tenant.dead()
    assert [reason.partition(":")[0] for reason in reasons(letters)] == ["cannot be read"] * 4
    assert letters[0].fields[b"b"] == b"\xff no protobuf"
    assert letters[2].fields[b"x"] == b"y"


@pytest.mark.usefixtures("no_dead_letters")
async def test_an_envelope_that_only_mapping_finds_torn_is_set_aside_and_those_mapped_with_it_go_on(
    tenant: Any, worker: Make, spans: Make
) -> None:
    """Its spans are found; what is nested in an attribute of one is not what it says."""
    whole = spans(1)
    whole.attributes.add(key="a").value.array_value.values.add(string_value="t")
    body = tenant.body([whole])
    await tenant.send([spans(0)], body.replace(b"\x0a\x01t", b"\x0a\x09t"), [spans(2)])
    async with worker() as running:
        await running.drained(tenant)
    assert [row["name"] for row in await tenant.rows("span", "name", "name")] == ["span 0", "span 2"]
    assert (await tenant.metered())["spans"] == 2
    [letter] = await tenant.dead()
    assert reasons([letter])[0].startswith("cannot be read: DecodeError")


@pytest.mark.usefixtures("no_dead_letters")
async def test_an_envelope_that_is_refused_while_its_batch_is_open_is_not_taken_for_stored(
    tenant: Any, worker: Make, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.mapping.CHUNK_SPANS", 1)
    torn = spans(1)
    torn.attributes.add(key="a").value.array_value.values.add(string_value="t")
    await tenant.send(tenant.body([torn]).replace(b"\x0a\x01t", b"\x0a\x09t"))
    async with worker() as running:
        await running.drained(tenant)
    [letter] = await tenant.dead()
    assert reasons([letter])[0].startswith("cannot be read: DecodeError")


@pytest.mark.usefixtures("no_dead_letters")
async def test_an_org_that_has_more_dead_letters_than_its_share_is_refused_until_they_are_gone(
    tenant: Any, worker: Make, hot_store: redis_control.RedisControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.tenant.dead_letters.MAX_BYTES", 3_000)
    other = type(tenant)(tenant.queue, tenant.engine)
    await tenant.send(b"\xff" * 1_000)
    await other.send(b"\xff" * 1_000)
    async with worker() as running:
        await running.drained(tenant)
        assert not await hot_store.command("EXISTS", flag_key(tenant.org_id))
        await tenant.send(b"\xff" * 1_000, b"\xff" * 1_000)
        await running.drained(tenant)
        await running.drained(other)
    assert 3_000 < (await tenant.queue.dead_bytes())[tenant.org_id] < 6_000
    assert 0 < await hot_store.command("PTTL", flag_key(tenant.org_id)) <= FLAG_LIFE_MS
    assert not await hot_store.command("EXISTS", flag_key(other.org_id))
    letters = await tenant.dead()
    assert [await tenant.queue.remove_dead_letters(letters) for _ in range(2)] == [4, 0]
    assert not {tenant.org_id, other.org_id} & (await tenant.queue.dead_bytes()).keys()


@pytest.mark.usefixtures("no_dead_letters")
async def test_dead_letters_are_listed_shown_replayed_and_dropped(
    tenant: Any, worker: Make, stores: Any, control: postgres.Postgres
) -> None:
    await control.execute("insert_org", tenant.org_id, "dead letters", "free")
    await tenant.send(b"\xff no protobuf")
    async with worker() as running:
        await running.drained(tenant)

    async def dlq(*arguments: str) -> Any:
        options = ["--json", "--data-dir", str(stores.data_dir)]
        result = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", *arguments, *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    [letter] = (await dlq("list", "--org", str(tenant.org_id)))["items"]
    assert (letter["org_id"], letter["deliveries"], letter["stream"]) == (str(tenant.org_id), 1, tenant.stream)
    assert (await dlq("show", letter["id"]))["body_start"] == "\\xff no protobuf"
    [replayed] = (await dlq("replay", letter["id"]))["replayed"]
    assert replayed["stream"] == tenant.stream
    assert (await dlq("list"))["items"] == []
    assert await tenant.queue.length(tenant.stream) == 1
    async with worker() as running:
        await running.drained(tenant)
    [letter] = (await dlq("list"))["items"]
    assert await dlq("drop", "--all", "--yes") == {"dropped": [{"id": letter["id"]}]}
    assert (await dlq("list"))["items"] == []


@pytest.mark.usefixtures("no_dead_letters")
async def test_dead_letters_are_listed_each_once_by_org_and_up_to_a_limit(
    tenant: Any, worker: Make, stores: Any, control: postgres.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.dead_letters.PAGE", 2)
    other = type(tenant)(tenant.queue, tenant.engine)
    await control.execute("insert_org", other.org_id, "dead letters", "free")
    for _ in range(3):
        await tenant.send(b"\xff no protobuf")
        await other.send(b"\xff no protobuf")
    async with worker() as running:
        await running.drained(tenant)
        await running.drained(other)

    async def dlq(*arguments: str) -> Any:
        options = ["--json", "--data-dir", str(stores.data_dir)]
        return await asyncio.to_thread(CliRunner().invoke, app, ["dlq", *arguments, *options])

    async def orgs(*arguments: str) -> list[str]:
        return [letter["org_id"] for letter in json.loads((await dlq("list", *arguments)).output)["items"]]

    assert sorted(await orgs()) == sorted([str(tenant.org_id), str(other.org_id)] * 3)
    assert await orgs("--org", str(other.org_id)) == [str(other.org_id)] * 3
    assert len(await orgs("--limit", "4")) == 4
    for unclear in (["drop"], ["drop", "1-1", "--all"]):
        assert (await dlq(*unclear)).exit_code != 0
    assert len(await orgs()) == 6
    assert (await dlq("drop", "--all", "--yes")).exit_code == 0
    assert await orgs() == []


@pytest.mark.usefixtures("no_dead_letters", "impatient")
async def test_an_entry_that_ends_its_workers_is_given_up_and_those_behind_it_are_not(
    tenant: Any, worker: Make, spans: Make
) -> None:
    deadly = await delivered_elsewhere(tenant, spans(0), MAX_DELIVERIES)
    await tenant.send([spans(1)], [spans(2)])
    await tenant.queue.read([tenant.stream], GHOST, 10)
    async with worker() as running:
        await running.drained(tenant)
    assert [row["name"] for row in await tenant.rows("span", "name", "name")] == ["span 1", "span 2"]
    [letter] = await tenant.dead()
    assert letter.fields[b"entry_id"] == deadly
    assert letter.fields[b"deliveries"] == b"6"
    assert "ended the worker" in reasons([letter])[0]


@pytest.mark.usefixtures("no_dead_letters", "impatient")
async def test_an_entry_is_tried_as_often_as_is_said(tenant: Any, worker: Make, spans: Make) -> None:
    await delivered_elsewhere(tenant, spans(0), MAX_DELIVERIES - 1)  # the worker's own is the last one
    async with worker() as running:
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 1
    assert await tenant.dead() == []


@pytest.fixture
def looks(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many silent entries of the tenant's stream each look has found, where it found any."""
    looks: list[int] = []
    look = type(tenant.queue).idle

    async def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        found = await look(self, *arguments, **options)
        looks.extend(len(entries) for stream, entries in found if stream == tenant.stream)
        return found

    monkeypatch.setattr(type(tenant.queue), "idle", counted)
    return looks


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[set[bytes]]:
    """The ids of the entries of each batch that a worker writes."""
    written: list[set[bytes]] = []
    write_batch = write.Writer.write

    async def noted(self: Any, work: Any) -> Any:
        written.append({held.entry.id for held in work.held})
        return await write_batch(self, work)

    monkeypatch.setattr(write.Writer, "write", noted)
    return written


@pytest.mark.usefixtures("impatient")
async def test_what_ended_its_workers_is_tried_alone(
    tenant: Any, worker: Make, spans: Make, written: list[set[bytes]]
) -> None:
    suspects = [await delivered_elsewhere(tenant, spans(0), ALONE_FROM - 1)]
    others = await tenant.send([spans(1)], [spans(2)])
    await tenant.queue.read([tenant.stream], GHOST, 10)
    async with worker() as running:
        await running.drained(tenant)
    assert set(suspects) in written
    assert set().union(*written) == {*suspects, *others}


@pytest.mark.usefixtures("impatient")
async def test_what_may_have_ended_its_workers_is_tried_in_groups_apart_from_the_rest(
    tenant: Any, worker: Make, spans: Make, written: list[set[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.reclaim.APART_TOGETHER", 3)
    monkeypatch.setattr("tracebility.worker.consumer.SUSPECTS_S", 60.0)  # a busy machine writes one group a second
    await tenant.queue.ensure_group([tenant.stream])
    suspects = await tenant.send(*([spans(number)] for number in range(5)))
    await tenant.queue.read([tenant.stream], GHOST, 10)
    for _ in range(APART_FROM - 2):
        await raw_streams.read_pending(tenant.queue, tenant.stream, GHOST, b"0", 10)
    others = await tenant.send([spans(5)], [spans(6)])
    await tenant.queue.read([tenant.stream], GHOST, 10)
    async with worker() as running:
        await running.drained(tenant)
    assert [ids for ids in written if ids] == [set(suspects[:3]), set(suspects[3:]), set(others)]


@pytest.mark.usefixtures("impatient", "no_dead_letters")
async def test_what_is_new_is_read_while_there_are_suspects(
    tenant: Any, worker: Make, spans: Make, written: list[set[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.consumer.SUSPECTS_S", 0.0)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_EVERY_S", 0.3)
    await tenant.queue.ensure_group([tenant.stream])
    suspects = await tenant.send([spans(0)])
    await tenant.queue.read([tenant.stream], GHOST, 10)
    for _ in range(ALONE_FROM - 2):
        await raw_streams.read_pending(tenant.queue, tenant.stream, GHOST, b"0", 10)
    new = await tenant.send([spans(1)])
    async with worker() as running:
        await running.until(lambda: set(new) in written)
        monkeypatch.setattr("tracebility.worker.consumer.SUSPECTS_S", 1.0)
        await running.drained(tenant)
    assert [ids for ids in written if ids] == [set(new), set(suspects)]


@pytest.mark.usefixtures("impatient", "no_dead_letters")
async def test_a_look_that_is_over_passes_over_a_few_suspects_not_all(
    tenant: Any, worker: Make, spans: Make, written: list[set[bytes]], looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reclaim", "consumer"):
        monkeypatch.setattr(f"tracebility.worker.{module}.CLAIM_COUNT", 2)
    monkeypatch.setattr("tracebility.worker.consumer.SUSPECTS_S", 0.0)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_EVERY_S", 3600.0)
    suspects = [await delivered_elsewhere(tenant, spans(0), 1)]
    suspects += await tenant.send(*([spans(number)] for number in range(1, 10)))
    for _ in range(ALONE_FROM):
        await tenant.queue.read([tenant.stream], GHOST, 10)
        await raw_streams.read_pending(tenant.queue, tenant.stream, GHOST, b"0", 10)
    new = await tenant.send([spans(10)])
    async with worker() as running:
        await running.until(lambda: set(new) in written)
    assert len(looks) == 2
    await raw_streams.acknowledge(tenant.queue, tenant.stream, suspects)


@pytest.mark.usefixtures("impatient")
async def test_many_that_a_dead_worker_left_are_all_taken(
    tenant: Any, worker: Make, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one look, which is more than one page of them."""
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_COUNT", 2)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_EVERY_S", 3600.0)
    await tenant.queue.ensure_group([tenant.stream])
    await tenant.send(*([spans(number)] for number in range(7)))
    await tenant.queue.read([tenant.stream], GHOST, 10)
    async with worker() as running:
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 7


async def test_what_is_being_written_is_kept_from_others_and_let_go_afterwards(
    tenant: Any, worker: Make, worker_of: Make, stores: Any, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is away for longer than a silent worker is given: the heartbeat says that this one is at work."""
    monkeypatch.setattr("tracebility.worker.pending.HEARTBEAT_S", 0.05)
    kept: list[set[bytes]] = []
    keep = type(tenant.queue).refresh

    async def noted(self: Any, stream: str, consumer: str, ids: Any) -> None:
        kept.append(set(ids))
        await keep(self, stream, consumer, ids)

    monkeypatch.setattr(type(tenant.queue), "refresh", noted)
    async with Gate(stores.clickhouse_url) as gate:
        engine = await clickhouse.connect(gate.url)
        gate.shut()
        async with worker_of(tenant.queue, engine) as running:
            ids = set(await tenant.send([spans(0)], [spans(1, 0)]))
            await running.until(lambda: ids in kept)
            assert running.metrics.held_bytes._value.get() > 0
            gate.is_shut = False
            await running.drained(tenant)
            await running.until(lambda: running.metrics.held_bytes._value.get() == 0)
        await engine.close()


async def test_what_a_worker_held_when_it_was_told_to_end_is_no_suspect_for_that(
    tenant: Any, worker: Make, worker_of: Make, stores: Any, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is away, and somebody starts the worker again and again."""
    monkeypatch.setattr("tracebility.worker.consumer.LEAVE_S", 0.1)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_IDLE_MS", 1)
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 1)
    async with Gate(stores.clickhouse_url) as gate:
        engine = await clickhouse.connect(gate.url)
        gate.shut()
        [entry_id] = await tenant.send([spans(0)])
        for _ in range(ALONE_FROM):
            async with worker_of(tenant.queue, engine) as running:
                await running.until(lambda: running.metrics.held_bytes._value.get() > 0)
        [(_, [silent])] = await tenant.queue.idle([tenant.stream], 0, count=10)
        assert silent == (entry_id, 1)
        await engine.close()
    async with worker() as running:
        await running.drained(tenant)


async def test_a_worker_takes_nothing_twice_that_it_holds(
    tenant: Any, worker_of: Make, stores: Any, spans: Make, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat came late, and its own look for what others left behind finds its own."""
    monkeypatch.setattr("tracebility.worker.pending.HEARTBEAT_S", 3600.0)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_IDLE_MS", 0)
    monkeypatch.setattr("tracebility.worker.consumer.CLAIM_EVERY_S", 0.0)
    async with Gate(stores.clickhouse_url) as gate:
        engine = await clickhouse.connect(gate.url)
        gate.shut()
        async with worker_of(tenant.queue, engine) as running:
            await tenant.send([spans(0)])
            await running.until(lambda: len(looks) > 2)
            gate.is_shut = False
            await running.drained(tenant)
            await running.until(lambda: running.metrics.envelopes._value.get() >= 1)
        assert running.metrics.envelopes._value.get() == 1
        await engine.close()


async def test_a_worker_that_is_gone_is_forgotten_once_it_holds_nothing(tenant: Any, spans: Make) -> None:
    """With a reader the store drops what it was given and has not acknowledged."""
    await tenant.queue.ensure_group([tenant.stream])
    host = worker_names.new_name().partition("/")[0]
    holding, idle = f"{host}/1/1/a", f"{host}/1/1/b"
    await tenant.send([spans(0)])
    [(_, [entry])] = await tenant.queue.read([tenant.stream], holding, 1)
    await tenant.queue.read([tenant.stream], idle, 1)

    async def readers() -> set[str]:
        found = await worker_names.consumers(tenant.queue, [tenant.stream])
        return {one.name for one in found[tenant.stream]} & {holding, idle}

    assert await readers() == {holding, idle}
    await remove_ended_consumers(tenant.queue, "me", [tenant.stream])
    assert await readers() == {holding}
    await raw_streams.acknowledge(tenant.queue, tenant.stream, [entry.id])
    await remove_ended_consumers(tenant.queue, "me", [tenant.stream])
    assert await readers() == set()


@pytest.mark.usefixtures("no_dead_letters")
async def test_the_one_envelope_whose_rows_the_engine_refuses_is_found_among_many(
    tenant: Any, worker: Make, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = bytes([99] * 16)

    def torn(batch: Any) -> Any:
        made = span_block(batch)
        return made._replace(data=made.data[:-5]) if bad.hex() in batch.traces() else made

    monkeypatch.setattr(write, "span_block", torn)
    bodies = [[spans(0, None, bytes([number] * 16))] for number in range(1, 8)]
    ids = await tenant.send(*bodies, [spans(0, None, bad)], [spans(1, None, bytes([20] * 16))])
    async with worker() as running:
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 8
    assert (await tenant.metered())["spans"] == 8
    [letter] = await tenant.dead()
    assert letter.fields[b"entry_id"] == ids[7]
    assert "ClickHouse refused its rows" in reasons([letter])[0]


@pytest.fixture
def rejected(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Has the engine reject the named query or insert with a code, so many times."""

    def reject(method: str, what: str, code: int, times: int) -> None:
        call = getattr(clickhouse.Engine, method)
        left = iter(range(times))

        async def rejecting(self: Any, name: str, *arguments: Any) -> Any:
            if name == what and next(left, None) is not None:
                raise clickhouse.EngineRejected(code, "cannot do anything now")
            return await call(self, name, *arguments)

        monkeypatch.setattr(clickhouse.Engine, method, rejecting)

    return reject


@pytest.mark.usefixtures("no_dead_letters")
@pytest.mark.parametrize("code", [439, 173, 1001, 43])
async def test_an_engine_that_cannot_tell_the_time_makes_no_dead_letters(
    tenant: Any, worker: Make, spans: Make, rejected: Make, code: int
) -> None:
    """439: no thread, 173: no memory, 1001: who knows; and 43, which about rows would say that they are wrong."""
    rejected("query", CLOCK, code, 3)
    await tenant.send(*([spans(number)] for number in range(4)))
    async with worker() as running:
        await running.drained(tenant)
    assert await tenant.dead() == []
    assert (await tenant.metered())["spans"] == 4
    assert [run["span_count"] for run in await tenant.rows("run", "span_count")] == [4]


@pytest.mark.usefixtures("no_dead_letters")
@pytest.mark.parametrize(
    ("method", "what"), [("query", query("known_outcomes")), ("insert_native", "envelope_outcome")]
)
async def test_an_engine_that_does_not_say_or_take_outcomes_is_waited_for(
    tenant: Any, worker: Make, spans: Make, rejected: Make, method: str, what: str
) -> None:
    rejected(method, what, 439, 3)
    await raw_streams.append(
        tenant.queue, [(tenant.stream, {**tenant.envelope(tenant.body([spans(0)])).fields(), MAYBE_DUPLICATE: b"1"})]
    )
    async with worker() as running:
        await running.drained(tenant)
    assert await tenant.dead() == []
    assert (await tenant.metered())["spans"] == 1


async def test_entries_that_vanish_while_pending_are_counted_as_lost(
    tenant: Any, worker: Make, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 1)
    await tenant.queue.ensure_group([tenant.stream])
    [gone] = await tenant.send([spans(0)])
    await tenant.queue.read([tenant.stream], GHOST, 10)
    await raw_streams.delete(tenant.queue, tenant.stream, [gone])
    async with worker() as running:
        await running.until(lambda: running.metrics.lost._value.get() == 1)


class Gate:
    """A way to the engine that can be shut."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._url = url
        self._open: set[asyncio.StreamWriter] = set()
        self.is_shut = False

    async def __aenter__(self) -> "Gate":
        self._server = await asyncio.start_server(self._through, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._url.replace(f":{self._target[1]}/", f":{port}/")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.shut()
        self._server.close()

    def shut(self) -> None:
        """Cut every connection and let no other through."""
        self.is_shut = True
        for one in self._open:
            one.transport.abort()

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_shut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()


async def test_while_the_engine_is_away_nothing_is_acknowledged_and_then_all_is_stored(
    tenant: Any, worker_of: Make, stores: Any, spans: Make
) -> None:
    async with Gate(stores.clickhouse_url) as gate:
        engine = await clickhouse.connect(gate.url)
        gate.shut()
        async with worker_of(tenant.queue, engine) as running:
            await tenant.send([spans(0)], [spans(1, 0)])
            await running.until(lambda: running.metrics.waits.labels("clickhouse")._value.get() > 2)
            assert await raw_streams.pending(tenant.queue, tenant.stream) == 2
            gate.is_shut = False
            await running.drained(tenant)
        await engine.close()
    assert [run["span_count"] for run in await tenant.rows("run", "span_count")] == [2]
    assert (await tenant.metered())["spans"] == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.usefixtures("no_dead_letters")
async def test_what_is_in_a_queue_whose_memory_is_full_leaves_it(
    tenant: Any, worker: Make, stores: Any, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what another worker was given, and by one that starts only then; and what cannot be stored, first of all."""
    monkeypatch.setattr("tracebility.tenant.dead_letters.MAX_BYTES", 1)
    await tenant.queue.ensure_group(ALL_STREAMS)
    await tenant.send(b"\xff no protobuf")
    await delivered_elsewhere(tenant, spans(0), 1)
    await tenant.send([spans(1)])
    async with Redis.from_url(stores.redis_url) as server:
        allowed = (await server.config_get("maxmemory"))["maxmemory"]
        await server.config_set("maxmemory", "1")
        try:
            async with worker() as running:
                await running.drained(tenant)
            assert await server.exists(flag_key(tenant.org_id))
        finally:
            await server.config_set("maxmemory", allowed)
    assert len(await tenant.rows("span", "span_id")) == 2
    assert len(await tenant.dead()) == 1


async def test_a_worker_that_ends_while_the_engine_is_away_leaves_its_entries_to_the_next(
    tenant: Any, worker: Make, worker_of: Make, stores: Any, spans: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Gate(stores.clickhouse_url) as gate:
        engine = await clickhouse.connect(gate.url)
        gate.shut()
        async with worker_of(tenant.queue, engine) as running:
            await tenant.send([spans(0)])
            await running.until(lambda: running.metrics.waits.labels("clickhouse")._value.get() > 0)
        await engine.close()
    assert await raw_streams.pending(tenant.queue, tenant.stream) == 1
    monkeypatch.setattr("tracebility.worker.reclaim.CLAIM_IDLE_MS", 1)
    async with worker() as running:
        await running.drained(tenant)
    assert len(await tenant.rows("span", "span_id")) == 1
