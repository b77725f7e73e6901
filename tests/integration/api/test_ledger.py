"""The books, the usage by hour and the trail of an org, as an admin and an operator read them."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tracebility.api import cursor
from tracebility.stores.clickhouse import Engine
from tracebility.tenant.ledger import ledger_entry
from tracebility.tenant.shard_router import shard_of, stream_of
from tracebility.wire.envelope import Header
from tracebility.worker.columns import MAX_VERSION

HOUR = timedelta(hours=1)


async def meter(engine: Engine, org_id: UUID, event_id: UUID, at: datetime, size: int = 100) -> None:
    for name, quantity in (("spans", 1), ("bytes", size)):
        at_us = int(at.timestamp() * 1e6)
        await engine.execute(
            "INSERT INTO billing_meter (org_id, workspace_id, project_id, period, meter, event_id, qty, accepted_at, "
            "version) SELECT {org:UUID}, {org:UUID}, {org:UUID}, '2026-03', {meter:String}, {event:UUID}, "
            "{qty:UInt64}, fromUnixTimestamp64Micro({at:Int64}), {version:UInt64}",
            {"org": str(org_id), "meter": name, "event": str(event_id), "qty": quantity, "at": at_us,
             "version": MAX_VERSION - at_us},
        )  # fmt: skip


@pytest.fixture
def first_hour() -> datetime:
    return datetime(2026, 3, 1, 10, tzinfo=UTC)


async def test_usage_is_by_the_hour_in_which_it_came_first(
    api: Any, engine: Engine, two_orgs: Any, first_hour: datetime
) -> None:
    org, other = two_orgs
    twice = uuid4()
    for event, at in ((twice, first_hour), (uuid4(), first_hour + HOUR), (twice, first_hour + HOUR)):
        await meter(engine, org.org_id, event, at)
    await meter(engine, other.org_id, uuid4(), first_hour, 7)
    address = f"/v1/admin/orgs/{org.org_id}/usage?from=2026-03-01T10:00:00Z&to=2026-03-01T12:00:00Z"
    items = (await api.get(address, headers=org.headers())).json()["items"]
    assert [(item["hour"], item["meter"], item["quantity"]) for item in items] == [
        ("2026-03-01T10:00:00Z", "bytes", 100),
        ("2026-03-01T10:00:00Z", "spans", 1),
        ("2026-03-01T11:00:00Z", "bytes", 100),
        ("2026-03-01T11:00:00Z", "spans", 1),
    ]
    within = f"/v1/admin/orgs/{org.org_id}/usage?from=2026-03-01T10:30:00Z&to=2026-03-01T11:00:01Z"
    assert (await api.get(within, headers=org.headers())).json()["items"] == items, "every hour that it touches"
    answer = await api.get(f"{address}&format=csv", headers=org.headers())
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(line["id"], line["quantity"]) for line in lines] == [(item["id"], str(item["quantity"])) for item in items]


@pytest.mark.parametrize(
    "times",
    [
        "from=x&to=2026-03-01T12:00:00Z",
        "from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z",
        "from=2026-03-01T10:50:00Z&to=2026-03-01T10:10:00Z",
        "to=2026-03-01T12:00:00Z",
        "from=1999-01-01T00:00:00Z&to=2026-03-01T00:00:00Z",
        "from=1969-12-31T23:00:00Z&to=1970-01-01T01:00:00Z",
        "from=1901-01-01T00:00:00Z&to=1901-01-02T00:00:00Z",
    ],
)
async def test_times_that_make_no_sense_are_named(api: Any, two_orgs: Any, times: str) -> None:
    answer = await api.get(f"/v1/admin/orgs/{two_orgs[0].org_id}/usage?{times}", headers=two_orgs[0].headers())
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(("from", "to", "The query parameter 'from'", "the query parameter"))


async def test_what_is_in_flight_is_in_the_books_of_its_org_alone(api: Any, queue: Any, two_orgs: Any) -> None:
    org, other = two_orgs
    header = Header(
        id=uuid4(), org_id=org.org_id, workspace_id=org.workspace_id, project_id=org.project_id, key_id="k",
        accepted_at_us=1_795_000_000_000_000, period="2026-11", source="native", content_type="json",
        content_encoding="identity", items=4, bytes=2,
    )  # fmt: skip
    stream = stream_of(shard_of(org.org_id))
    await queue.append_groups([], [ledger_entry(stream, header)])
    books = (await api.get(f"/v1/admin/orgs/{org.org_id}/ledger", headers=org.headers())).json()
    assert books == {
        "accepted": 4, "stored": 0, "dropped": [], "dead": 0, "in_flight": 4, "distinct": 0, "balanced": True
    }  # fmt: skip
    books = (await api.get(f"/v1/admin/orgs/{other.org_id}/ledger", headers=other.headers())).json()
    assert (books["accepted"], books["in_flight"]) == (0, 0)


async def test_the_trail_is_read_page_by_page_and_by_what_is_asked_for(
    api: Any, two_orgs: Any, operator_key: str
) -> None:
    org, _ = two_orgs
    address = f"/v1/admin/orgs/{org.org_id}/audit"
    made = []
    for name in ("one", "two", "three"):
        body = {"name": name, "scopes": ["read"]}
        answer = await api.post(f"/v1/projects/{org.project_id}/keys", json=body, headers=org.headers())
        made.append(answer.json()["public_id"])
    everything = (await api.get(address, headers=org.headers())).json()["items"]
    assert [item["target_id"] for item in everything] == made[::-1]
    paged, place = [], ""
    while place is not None:
        page = (await api.get(f"{address}?limit=1{place and f'&cursor={place}'}", headers=org.headers())).json()
        paged += page["items"]
        place = page["next_cursor"]
    assert paged == everything
    for filters, found in (
        (f"target={made[1]}", [made[1]]),
        (f"actor={org.context.key_id}", made[::-1]),
        ("actor=nobody", []),
        ("type=api_key.created", made[::-1]),
        ("type=api_key.revoked", []),
        (f"from={everything[1]['event_time']}", made[:0:-1]),
        (f"to={everything[1]['event_time']}", made[:1]),
    ):
        items = (await api.get(f"{address}?{filters}", headers=org.headers())).json()["items"]
        assert [item["target_id"] for item in items] == found, filters
    operators = {"authorization": f"Bearer {operator_key}"}
    assert (await api.get(address, headers=operators)).json()["items"] == everything
    assert (await api.get(f"{address}/gaps", headers=org.headers())).json() == {"items": [], "next_cursor": None}
    assert (await api.get(f"{address}?from=yesterday", headers=org.headers())).status_code == 422
    assert (await api.get(f"{address}?cursor=zzz", headers=org.headers())).status_code == 400


@pytest.mark.parametrize("name", ["actor", "target", "type"])
async def test_a_filter_that_no_store_can_compare_with_is_named(api: Any, two_orgs: Any, name: str) -> None:
    org = two_orgs[0]
    answer = await api.get(f"/v1/admin/orgs/{org.org_id}/audit?{name}=a%00b", headers=org.headers())
    assert (answer.status_code, answer.json()["detail"]) == (422, f"{name}: must not contain null characters.")


@pytest.mark.parametrize("place", [b"", b"x", b"\0", b"\xff", b"0" * 32, b"%7Burn:uuid" * 90])
async def test_a_cursor_that_was_sealed_around_no_place_is_refused(api: Any, two_orgs: Any, place: bytes) -> None:
    org = two_orgs[0]
    text = cursor.seal_made(datetime.now(UTC), place, b"audit" + org.org_id.bytes)
    answer = await api.get(f"/v1/admin/orgs/{org.org_id}/audit?cursor={text}", headers=org.headers())
    assert (answer.status_code, answer.json()["detail"]) == (400, "cursor: not a cursor of this list.")


@pytest.mark.parametrize("at", [datetime.min, datetime.max, datetime(1800, 1, 1), datetime(2500, 1, 1)], ids=str)
async def test_a_cursor_of_a_time_that_no_event_has_ends_the_list_or_is_its_start(
    api: Any, two_orgs: Any, at: datetime
) -> None:
    org = two_orgs[0]
    body = {"name": "one", "scopes": ["read"]}
    await api.post(f"/v1/projects/{org.project_id}/keys", json=body, headers=org.headers())
    for of_list, path in ((b"audit", "audit"), (b"gaps", "audit/gaps")):
        text = cursor.seal_made(at.replace(tzinfo=UTC), str(uuid4()).encode(), of_list + org.org_id.bytes)
        answer = await api.get(f"/v1/admin/orgs/{org.org_id}/{path}?cursor={text}", headers=org.headers())
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["items"]) == (path == "audit" and at.year > 2026)


async def test_what_was_used_now_is_not_shown_of_a_far_time(
    api: Any, engine: Engine, two_orgs: Any, first_hour: datetime
) -> None:
    """The engine's seconds are 32 bits wide: a time that is so far off must not come around."""
    org = two_orgs[0]
    await meter(engine, org.org_id, uuid4(), first_hour)
    address = f"/v1/admin/orgs/{org.org_id}/usage?from=2162-04-06T00:00:00Z&to=2162-04-10T00:00:00Z"
    answer = await api.get(address, headers=org.headers())
    assert (answer.status_code, answer.json()["items"]) == (200, [])
