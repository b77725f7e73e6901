"""Many requests share few round trips; what the queue does not take goes to disk; what neither takes is refused."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from tracebility.errors import Overloaded, StoreUnavailable
from tracebility.ids import OrgId
from tracebility.ingest import enqueue
from tracebility.ingest.enqueue import CircuitBreaker, Enqueuer, Entry
from tracebility.ingest.metrics import IngestMetrics
from tracebility.telemetry import Metrics
from tracebility.tenant.shard_router import MOVED, SPLIT, Placement, ShardRouter, overflow_of, shard_of, stream_of
from tracebility.wire.envelope import Envelope, Header, header_of

ORG = OrgId(UUID(int=7))


class Queue:
    """Takes, refuses or hangs as told, and remembers its round trips."""

    def __init__(self) -> None:
        self.trips: list[list[list[Entry]]] = []
        self.refuse: set[bytes] = set()
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.deep = 0

    def depth(self, stream: str, org_id: Any) -> int:
        return self.deep

    async def withdraw(self, books: Sequence[Any]) -> None:
        return

    async def append_groups(self, groups: Sequence[Sequence[Entry]], books: Sequence[Any] = ()) -> list[Any]:
        self.trips.append([list(group) for group in groups])
        self.asked.set()
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return [
            StoreUnavailable("redis", "OOM") if group[0][1]["b"] in self.refuse else [b"1-1"] * len(group)
            for group in groups
        ]


class Disk:
    """Keeps, or refuses as told."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, OrgId, bytes]] = []
        self.is_full = False

    async def write(self, shard: int, org_id: OrgId, entries: Sequence[dict[str, bytes]]) -> None:
        if self.is_full:
            raise Overloaded("full")
        self.kept += [(shard, org_id, entry["b"]) for entry in entries]


class Edge:
    def __init__(self) -> None:
        self.metrics = IngestMetrics(Metrics())
        self.queue, self.disk, self.breaker = Queue(), Disk(), CircuitBreaker(self.metrics)
        self.router = ShardRouter()
        self.enqueuer = Enqueuer(self.queue, self.disk, self.breaker, self.metrics, self.router)

    async def keep(self, *bodies: bytes, org: OrgId = ORG) -> None:
        await self.enqueuer.keep(org, [envelope(org, body) for body in bodies])

    def queued(self) -> list[bytes]:
        return [fields["b"] for trip in self.queue.trips for group in trip for _, fields in group]


def envelope(org: OrgId, body: bytes) -> Envelope:
    header = Header(
        id=uuid4(),
        org_id=org,
        workspace_id=uuid4(),
        project_id=uuid4(),
        key_id="key",
        accepted_at_us=1,
        period="2026-01",
        source="otlp",
        content_type="protobuf",
        content_encoding="identity",
        items=1,
        bytes=len(body),
    )
    return Envelope(header, body)


@pytest.fixture
def edge() -> Edge:
    return Edge()


async def test_requests_that_come_together_share_round_trips(edge: Edge) -> None:
    await asyncio.gather(*(edge.keep(b"%d" % number) for number in range(200)))
    assert sorted(edge.queued(), key=int) == [b"%d" % number for number in range(200)]
    assert len(edge.queue.trips) <= 2


async def test_at_most_two_round_trips_are_under_way_and_what_waits_goes_together(edge: Edge) -> None:
    edge.queue.answers.clear()
    tasks = []
    for number in range(20):
        tasks.append(asyncio.create_task(edge.keep(b"%d" % number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(edge.queue.trips) == enqueue.PIPELINES
    edge.queue.answers.set()
    await asyncio.gather(*tasks)
    assert len(edge.queue.trips) == enqueue.PIPELINES + 1


async def test_a_pipeline_is_bounded_in_bytes(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "PIPELINE_BYTES", 2000)
    await asyncio.gather(*(edge.keep(b"x" * size) for size in (400, 100, 5000, 10)))
    assert [[len(group[0][1]["b"]) for group in trip] for trip in edge.queue.trips] == [[400, 100], [5000], [10]]


@pytest.mark.parametrize(
    ("deep", "size", "waits_beside"),
    [
        (0, 1 << 20, False),
        (enqueue.MAX_BYTES_IN_FLIGHT >> 20, 1 << 20, False),
        ((enqueue.MAX_BYTES_IN_FLIGHT >> 20) + 1, 1 << 20, True),
        (enqueue.MAX_IN_FLIGHT, 1, False),
        (enqueue.MAX_IN_FLIGHT + 1, 1, True),
    ],
)
async def test_what_an_org_has_too_much_of_in_number_or_in_bytes_waits_beside_its_shard(
    edge: Edge, deep: int, size: int, waits_beside: bool
) -> None:
    edge.queue.deep = deep
    await edge.keep(b"x" * size)
    [[[(stream, _)]]] = edge.queue.trips
    own = stream_of(shard_of(ORG))
    assert stream == (overflow_of(shard_of(ORG)) if waits_beside else own)


async def test_envelopes_go_to_the_stream_of_their_org_and_stay_together(edge: Edge) -> None:
    other = OrgId(UUID(int=8))
    await asyncio.gather(edge.keep(b"1", b"2", b"3"), edge.keep(b"4", org=other))
    [trip] = edge.queue.trips
    assert [[(stream, fields["b"]) for stream, fields in group] for group in trip] == [
        [(stream_of(shard_of(ORG)), body) for body in (b"1", b"2", b"3")],
        [(stream_of(shard_of(other)), b"4")],
    ]


async def test_envelopes_go_where_the_map_says_and_say_by_which_epoch(edge: Edge) -> None:
    await edge.keep(b"1")
    edge.router.learn([Placement(7, ORG, (shard_of(ORG) ^ 1,), MOVED)])
    await edge.keep(b"2")
    groups = [group for trip in edge.queue.trips for group in trip]
    assert [(stream, header_of(fields["h"]).epoch) for [(stream, fields)] in groups] == [
        (stream_of(shard_of(ORG)), 0),
        (stream_of(shard_of(ORG) ^ 1), 7),
    ]


async def test_of_a_split_org_requests_are_spread_and_each_stays_together(edge: Edge) -> None:
    edge.router.learn([Placement(1, ORG, (2, 5, 11), SPLIT)])
    for number in range(60):
        await edge.keep(b"%d" % number, b"more", b"and more")
    streams = [{stream for stream, _ in group} for trip in edge.queue.trips for group in trip]
    assert {len(some) for some in streams} == {1}
    assert set.union(*streams) == {stream_of(shard) for shard in (2, 5, 11)}


async def test_what_goes_to_disk_is_kept_for_the_shard_it_was_routed_to(edge: Edge) -> None:
    edge.router.learn([Placement(1, ORG, (shard_of(ORG) ^ 1,), MOVED)])
    edge.breaker.trip("away")
    await edge.keep(b"1")
    assert edge.disk.kept == [(shard_of(ORG) ^ 1, ORG, b"1")]


@pytest.mark.parametrize("error", [StoreUnavailable("redis", "reset"), TimeoutError()])
async def test_what_failed_or_is_ambiguous_goes_to_disk(edge: Edge, error: Exception) -> None:
    edge.queue.error = error
    await asyncio.gather(edge.keep(b"1"), edge.keep(b"2"))
    assert [body for _, _, body in edge.disk.kept] == [b"1", b"2"]
    assert edge.breaker.is_open


async def test_a_queue_that_hangs_costs_its_deadline_once(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "DEADLINE_S", 0.05)
    edge.queue.answers.clear()
    await asyncio.gather(*(edge.keep(b"%d" % number) for number in range(50)))
    await edge.keep(b"later")
    assert len(edge.disk.kept) == 51
    assert len(edge.queue.trips) <= enqueue.PIPELINES


async def test_requests_that_waited_behind_a_failure_go_to_disk_without_one_of_their_own(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "PIPELINE_GROUPS", 1)
    edge.queue.error = StoreUnavailable("redis", "reset")
    await asyncio.gather(*(edge.keep(b"%d" % number) for number in range(10)))
    assert len(edge.disk.kept) == 10
    assert len(edge.queue.trips) <= enqueue.PIPELINES


async def test_a_full_queue_sends_only_what_it_refused_to_disk(edge: Edge) -> None:
    edge.queue.refuse = {b"2"}
    await asyncio.gather(edge.keep(b"1"), edge.keep(b"2"), edge.keep(b"3"))
    assert [body for _, _, body in edge.disk.kept] == [b"2"]
    assert edge.breaker.is_open
    edge.breaker.close()
    edge.queue.refuse = set()
    await edge.keep(b"4")
    assert [body for _, _, body in edge.disk.kept] == [b"2"]


async def test_what_neither_keeps_is_refused(edge: Edge) -> None:
    edge.queue.error = StoreUnavailable("redis", "away")
    edge.disk.is_full = True
    with pytest.raises(Overloaded) as refusal:
        await edge.keep(b"1")
    assert 1 <= (refusal.value.retry_after_s or 0) <= 5
    registry = edge.metrics.all.registry
    assert registry.get_sample_value("tracebility_ingest_envelopes_total", {"kept": "refused"}) == 1


async def test_a_bug_in_the_client_leaves_nobody_waiting(edge: Edge) -> None:
    edge.queue.error = ZeroDivisionError()
    await edge.keep(b"1")
    assert [body for _, _, body in edge.disk.kept] == [b"1"]
    await edge.enqueuer.close()


async def test_a_client_that_leaves_does_not_disturb_the_others(edge: Edge) -> None:
    edge.queue.answers.clear()
    leaving, staying = asyncio.create_task(edge.keep(b"1")), asyncio.create_task(edge.keep(b"2"))
    await edge.queue.asked.wait()
    leaving.cancel()
    edge.queue.answers.set()
    await staying
    assert edge.queued() == [b"1", b"2"]


async def test_closing_waits_for_what_is_on_its_way(edge: Edge) -> None:
    edge.queue.answers.clear()
    task = asyncio.create_task(edge.keep(b"1"))
    await edge.queue.asked.wait()
    closing = asyncio.create_task(edge.enqueuer.close())
    for _ in range(10):  # turns of the loop, in which it could end if it did not wait
        await asyncio.sleep(0)
    assert not closing.done()
    edge.queue.answers.set()
    await closing
    await task
