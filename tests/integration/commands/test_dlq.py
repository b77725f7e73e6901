"""What is done with dead letters is in the trail of whose they are, before it is done."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.harness import streams as raw_streams

from tracebility.ids import OrgId, uuid7
from tracebility.stores.postgres import Postgres
from tracebility.stores.queue import Queue
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.resends import removal_key
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, stream_of
from tracebility.wire.envelope import Envelope, Header


@pytest.fixture
async def letters(queue: Queue, two_orgs: Any) -> list[tuple[str, UUID | None]]:
    """Two of an org, one of an org that there is not, one that cannot be read; and whose they are."""
    await queue._pipeline([("DEL", DEAD_LETTER_STREAM)])
    org_id = UUID(str(two_orgs[0].org_id))
    made: list[tuple[str, UUID | None]] = []
    for whose in (org_id, org_id, uuid4(), None):
        fields = {"h": b"?", "b": b""}
        if whose is not None:
            header = Header(
                id=uuid7(), org_id=whose, workspace_id=uuid4(), project_id=uuid4(), key_id="key", accepted_at_us=1,
                period="2026-11", source="otlp", content_type="protobuf", content_encoding="identity", items=3, bytes=1,
            )  # fmt: skip
            fields = Envelope(header, b"x").fields()
        origin = {"reason": b"cannot be read", "stream": stream_of(3).encode(), "entry_id": b"1-1"}
        [entry_id] = await raw_streams.append(queue, [(DEAD_LETTER_STREAM, fields | origin)])
        assert isinstance(entry_id, bytes)
        made.append((entry_id.decode(), whose))
    return made


async def events(control: Postgres, org_id: UUID | None) -> list[Any]:
    return await control.fetch(
        "SELECT event_type, actor_type, details FROM audit_log WHERE org_id IS NOT DISTINCT FROM $1 "
        "AND event_type LIKE 'dead_letters.%' ORDER BY event_time DESC, seq DESC",
        org_id,
    )


async def test_what_is_replayed_or_dropped_is_in_the_trail(
    commands: Any, control: Postgres, queue: Queue, letters: list[tuple[str, UUID | None]], hot_store: RedisControl
) -> None:
    (first, org_id), (second, _), (unknown, _), (unreadable, _) = letters
    assert org_id is not None
    assert await asyncio.to_thread(commands.answer, "dlq", "drop", first) == {"dropped": [{"id": first}]}
    refused = await asyncio.to_thread(commands.run, "dlq", "drop", "--all", text="n\n")
    assert (refused.exit_code, await queue.length(DEAD_LETTER_STREAM)) == (1, 3)
    assert "Delete 3 dead letters with 6 items" in refused.output
    await asyncio.to_thread(commands.answer, "dlq", "drop", "--all", "--yes")
    rows = await events(control, org_id)
    assert [(row["event_type"], row["actor_type"]) for row in rows] == [("dead_letters.dropped", "operator")] * 2
    assert [row["details"] for row in reversed(rows)] == [
        {"count": 1, "items": 3, "letters": [first]},
        {"count": 1, "items": 3, "letters": [second]},
    ]
    nobodys = [row["details"]["letters"] for row in (await events(control, None))[:2]]
    assert sorted(nobodys) == sorted([[unknown], [unreadable]])
    assert await queue.length(DEAD_LETTER_STREAM) == 0
    assert await hot_store.command("EXISTS", removal_key(OrgId(org_id))), "what they came in counts as new from now on"
