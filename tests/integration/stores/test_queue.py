"""The queue, on a real store: what each verb promises to edge and worker."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from tests.harness import streams as raw_streams

from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.stores.queue import Queue, connect_queue
from tracebility.stores.queue.entries import Depth, Entry, Removal
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM


@pytest.fixture
async def stream(queue: Queue) -> AsyncIterator[str]:
    name = f"test:{uuid4().hex}"
    await queue.ensure_group([name])
    yield name
    await raw_streams.delete(queue, name, [entry.id for entry in await queue.range(name)])


async def test_an_entry_is_read_once_and_gone_when_acknowledged(queue: Queue, stream: str) -> None:
    [entry_id] = await raw_streams.append(queue, [(stream, {"h": b"\x00\xff", "b": b""})])
    assert await queue.read([stream], "one", 10) == [(stream, [Entry(entry_id, {b"h": b"\x00\xff", b"b": b""})])]
    assert await queue.read([stream], "two", 10) == []
    assert await raw_streams.pending(queue, stream) == 1
    await raw_streams.acknowledge(queue, stream, [entry_id])
    assert (await queue.depths([stream]))[stream] == Depth(0, 0, None)


async def test_a_read_takes_its_count_from_each_stream(queue: Queue, stream: str) -> None:
    other = f"{stream}:other"
    await queue.ensure_group([other])
    await raw_streams.append(queue, [(name, {"b": b"%d" % n}) for n in range(5) for name in (stream, other)])
    found = await queue.read([stream, other], "one", 3)
    assert [(name, len(entries)) for name, entries in found] == [(stream, 3), (other, 3)]
    await queue.remove([Removal(name, [entry.id for entry in entries]) for name, entries in found])
    assert {name: depth.length for name, depth in (await queue.depths([stream, other])).items()} == {
        stream: 2,
        other: 2,
    }
    await raw_streams.delete(queue, other, [entry.id for entry in await queue.range(other)])


async def test_a_group_gets_in_whole_or_not_at_all(queue: Queue, stream: str) -> None:
    # A key of another type stands for any refusal: one entry alone may fail, a group fails as a whole.
    wrong = f"{stream}:string"
    await queue._pipeline([("SET", wrong, "x", "EX", 60)])
    good, bad, single = await queue.append_groups(
        [
            [(stream, {"b": b"1"}), (stream, {"b": b"2"})],
            [(wrong, {"b": b"3"}), (wrong, {"b": b"4"})],
            [(stream, {"b": b"5"})],
        ]
    )
    assert isinstance(bad, StoreUnavailable)
    assert not isinstance(good, StoreUnavailable)
    assert not isinstance(single, StoreUnavailable)
    assert [entry.fields[b"b"] for entry in await queue.range(stream)] == [b"1", b"2", b"5"]
    assert [entry.id for entry in await queue.range(stream)] == [*good, *single]


async def test_a_refused_entry_is_told_beside_those_that_got_in(queue: Queue, stream: str) -> None:
    wrong = f"{stream}:string"
    await queue._pipeline([("SET", wrong, "x", "EX", 60)])
    refused, accepted = await raw_streams.append(queue, [(wrong, {"b": b"1"}), (stream, {"b": b"2"})])
    assert isinstance(refused, StoreUnavailable)
    assert isinstance(accepted, bytes)


async def test_what_a_silent_consumer_holds_can_be_claimed(queue: Queue, stream: str) -> None:
    ids = [
        entry
        for entry in await raw_streams.append(queue, [(stream, {"b": b"%d" % n}) for n in range(3)])
        if isinstance(entry, bytes)
    ]
    await queue.read([stream], "dead", 10)
    assert [entry.id for entry in await raw_streams.read_pending(queue, stream, "dead", b"0", 10)] == ids
    await raw_streams.delete(queue, stream, [ids[1]])
    entries, vanished = await queue.claim(stream, "alive", 0, ids)
    assert [(entry.id, deliveries) for entry, deliveries in entries] == [(ids[0], 3), (ids[2], 3)]
    assert vanished == [ids[1]]
    await queue.refresh(stream, "alive", [ids[0]])
    # Read, read again and claimed: three deliveries. Saying that it is at work on an entry is none.
    assert await queue.idle([stream], 0, count=10) == [(stream, [(ids[0], 3), (ids[2], 3)])]
    assert await queue.idle([stream], 0, count=1) == [(stream, [(ids[0], 3)])]
    assert await queue.idle([stream], 0, count=10, start=b"(" + ids[0]) == [(stream, [(ids[2], 3)])]
    assert await queue.idle([stream], 60_000, count=10) == []
    assert await queue.claim(stream, "third", 60_000, ids) == ([], [])
    await raw_streams.acknowledge(queue, stream, ids[:1])
    entries, vanished = await queue.claim(stream, "third", 0, ids)
    assert [entry.id for entry, _ in entries] == [ids[2]]
    assert vanished == []


async def test_a_claim_takes_what_it_names_and_nothing_else(queue: Queue, stream: str) -> None:
    ids = [one for one in await raw_streams.append(queue, [(stream, {"b": b""})] * 3) if isinstance(one, bytes)]
    await queue.read([stream], "dead", 10)
    entries, _ = await queue.claim(stream, "alive", 0, [ids[0], ids[2]])
    assert [entry.id for entry, _ in entries] == [ids[0], ids[2]]
    assert [entry.id for entry in await raw_streams.read_pending(queue, stream, "dead", b"0", 10)] == [ids[1]]


async def test_a_dead_letter_whose_last_answer_was_lost_is_one(
    queue: Queue, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await raw_streams.append(queue, [(stream, {"b": b"poison"})])
    [(_, [entry])] = await queue.read([stream], "one", 1)
    pipelined = queue._pipeline

    async def loses_the_last(commands: Any, **options: Any) -> Any:
        answers = await pipelined(commands, **options)
        if commands and commands[0][0] == "HDEL":
            raise StoreUnavailable("redis", "its answer was lost")
        return answers

    monkeypatch.setattr(queue, "_pipeline", loses_the_last)
    await queue.dead_letter(Removal(stream, [entry.id]), entry, reason="poison", deliveries=6, at_us=1)
    letters = [one for one in await queue.range(DEAD_LETTER_STREAM, count=10_000) if one.fields[b"b"] == b"poison"]
    assert [letter.fields[b"entry_id"] for letter in letters] == [entry.id]
    await raw_streams.delete(queue, DEAD_LETTER_STREAM, [letter.id for letter in letters])


async def test_a_stream_without_its_group_gets_one_and_loses_nothing(queue: Queue) -> None:
    stream = f"test:{uuid4().hex}"
    await raw_streams.append(queue, [(stream, {"b": b"early"})])
    assert await queue.read([stream], "one", 10) == []
    [(_, [entry])] = await queue.read([stream], "one", 10)
    assert entry.fields == {b"b": b"early"}
    await raw_streams.acknowledge(queue, stream, [entry.id])


async def test_a_dead_letter_says_what_happened_and_goes_back_as_it_was(queue: Queue, stream: str) -> None:
    await raw_streams.append(queue, [(stream, {"h": b"head", "b": b"body"})])
    [(_, [entry])] = await queue.read([stream], "one", 1)
    await queue.dead_letter(Removal(stream, [entry.id]), entry, reason="cannot be decoded", deliveries=5, at_us=17)
    assert (await queue.depths([stream]))[stream] == Depth(0, 0, None)
    [dead] = [
        letter
        for letter in await queue.range(DEAD_LETTER_STREAM, count=10_000)
        if letter.fields[b"stream"] == stream.encode()
    ]
    assert dead.fields == {
        b"h": b"head",
        b"b": b"body",
        b"reason": b"cannot be decoded",
        b"stream": stream.encode(),
        b"entry_id": entry.id,
        b"deliveries": b"5",
        b"at": b"17",
    }
    again = await queue.replay(dead)
    assert await queue.range(stream) == [Entry(again, {b"h": b"head", b"b": b"body", b"again": b"1"})]
    assert dead.id not in {letter.id for letter in await queue.range(DEAD_LETTER_STREAM, count=10_000)}


async def test_memory_is_bounded_and_nothing_is_evicted(queue: Queue) -> None:
    memory = await queue.info_memory()
    assert 0 < memory.used < memory.maximum
    [server] = (await queue.info()).values()
    assert server["appendfsync"] == "always"
    assert server["maxmemory_policy"] == "noeviction"
    assert server["aof_enabled"] == "1"


async def test_a_cut_connection_is_a_store_that_is_away(stores: Any, wire: Any) -> None:
    async with wire(stores.redis_url) as line:
        queue = await connect_queue(line.dsn)
        await line.cut()
        with pytest.raises(StoreUnavailable, match=r"^redis: "):
            await raw_streams.append(queue, [("test:cut", {"b": b""})])
        await queue.close()


async def test_a_refused_dsn_is_one_line_without_the_password(stores: Any, wrong_password: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await connect_queue(wrong_password(stores.redis_url))
    socket = stores.data_dir / "run/valkey.sock"
    assert str(refused.value).startswith(f"TRACEBILITY_REDIS_URL: the store at {socket} refuses")
    assert "n0t-the-pass" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_database_that_is_not_there_is_refused(stores: Any) -> None:
    with pytest.raises(ConfigurationError, match="refuses this DSN"):
        await connect_queue(f"{stores.redis_url}?db=15")


async def test_nothing_there_is_one_line_with_the_fix(unused_tcp_port: int) -> None:
    with pytest.raises(ConfigurationError, match=r"TRACEBILITY_REDIS_URL: no usable answer .* Start the store there"):
        await connect_queue(f"redis://:s3cret@127.0.0.1:{unused_tcp_port}/0", wait_s=0)
