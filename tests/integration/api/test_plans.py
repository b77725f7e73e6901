"""Plans: put whole, shown as they were put, refused with the field that is wrong."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracebility.orgs.plans import shown
from tracebility.stores.changes import resolving
from tracebility.tenant.limits import MAX_AMOUNT, MAX_BURST, MAX_REQUESTS_PER_S, Limits
from tracebility.validation import read

WHOLE = {
    "rate": {"requests_per_s": 50, "burst": 200},
    "meters": {"spans": {"hard": 1000, "soft": 800}, "bytes": {"hard": 0, "soft": None}},
    "retention_days": 30,
    "eval_concurrency": 4,
    "query_concurrency": 3,
}
UNLIMITED = dict.fromkeys(WHOLE)
# What a plan has to say, null or not.
SAYS = ("rate", "meters")  # what every plan has to say
SAYS_NOTHING: dict[str, Any] = dict.fromkeys(SAYS)


async def put(api: httpx.AsyncClient, operator: Any, name: str, document: Any) -> httpx.Response:
    content, sent = json.dumps(document), operator | {"content-type": "application/json"}
    return await api.put(f"/v1/admin/plans/{name}", content=content, headers=sent)


async def listed(api: httpx.AsyncClient, operator: Any, name: str) -> dict[str, Any]:
    [plan] = [
        plan for plan in (await api.get("/v1/admin/plans", headers=operator)).json()["items"] if plan["name"] == name
    ]
    return dict(plan)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (WHOLE, WHOLE),
        (SAYS_NOTHING, UNLIMITED),
        (UNLIMITED, UNLIMITED),
        ({"rate": {"requests_per_s": None, "burst": None}}, UNLIMITED),
        ({"meters": {}}, UNLIMITED),
        ({"meters": {"spans": None}}, UNLIMITED),
        ({"meters": {"spans": {"hard": None}, "bytes": {"hard": None, "soft": None}}}, UNLIMITED),
        ({"rate": {"requests_per_s": 7}}, UNLIMITED | {"rate": {"requests_per_s": 7, "burst": 7}}),
        ({"rate": {"requests_per_s": 7, "burst": None}}, UNLIMITED),
        (
            {"meters": {"bytes": {"hard": MAX_AMOUNT}}},
            UNLIMITED | {"meters": {"spans": None, "bytes": {"hard": MAX_AMOUNT, "soft": None}}},
        ),
        (
            {"meters": {"spans": {"hard": 0, "soft": 0}}},
            UNLIMITED | {"meters": {"spans": {"hard": 0, "soft": 0}, "bytes": None}},
        ),
    ],
)
async def test_a_plan_is_shown_as_it_was_put(
    api: httpx.AsyncClient, operator: Any, plan_name: str, document: Any, expected: Any
) -> None:
    answer = await put(api, operator, plan_name, SAYS_NOTHING | document)
    assert (answer.status_code, answer.json()) == (200, expected | {"name": plan_name})
    assert await listed(api, operator, plan_name) == expected | {"name": plan_name}


async def test_a_plan_is_replaced_whole(api: httpx.AsyncClient, operator: Any, plan_name: str, trail: Any) -> None:
    await put(api, operator, plan_name, WHOLE)
    await put(api, operator, plan_name, SAYS_NOTHING | {"retention_days": 7})
    assert await listed(api, operator, plan_name) == UNLIMITED | {"retention_days": 7, "name": plan_name}
    events = [event for event in await trail.of(None, "plan.changed") if event["target_id"] == plan_name]
    assert [event["details"]["old"] for event in events] == [None, WHOLE | {"name": plan_name}]
    assert events[1]["details"]["new"]["retention_days"] == 7
    assert {event["actor_type"] for event in events} == {"operator"}


async def test_the_same_plan_again_leaves_no_event(
    api: httpx.AsyncClient, operator: Any, plan_name: str, trail: Any
) -> None:
    await put(api, operator, plan_name, WHOLE)
    before = await trail.length()
    assert (await put(api, operator, plan_name, WHOLE)).status_code == 200
    assert await trail.length() == before


async def test_two_who_make_one_plan_at_once_make_one(
    api: httpx.AsyncClient, operator: Any, plan_name: str, trail: Any
) -> None:
    answers = await asyncio.gather(
        *(put(api, operator, plan_name, SAYS_NOTHING | {"retention_days": n + 1}) for n in range(4))
    )
    assert {answer.status_code for answer in answers} == {200}
    events = [event for event in await trail.of(None, "plan.changed") if event["target_id"] == plan_name]
    assert [event["details"]["old"] for event in events[1:]] == [event["details"]["new"] for event in events[:-1]]
    assert await listed(api, operator, plan_name) == events[-1]["details"]["new"]


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"rate": {"requests_per_s": 0}}, "rate.requests_per_s"),
        ({"rate": {"requests_per_s": -1}}, "rate.requests_per_s"),
        ({"rate": {"requests_per_s": 1.5}}, "rate.requests_per_s"),
        ({"rate": {"requests_per_s": "9"}}, "rate.requests_per_s"),
        ({"rate": {"requests_per_s": True}}, "rate.requests_per_s"),
        ({"rate": {"requests_per_s": MAX_REQUESTS_PER_S + 1}}, "rate.requests_per_s"),
        ({"rate": {"requests_per_s": 1, "burst": 0}}, "rate.burst"),
        ({"rate": {"requests_per_s": 1, "burst": MAX_BURST + 1}}, "rate.burst"),
        ({"rate": {"per_minute": 1}}, "rate.per_minute"),
        ({"rate": 5}, "rate"),
        ({"rate": []}, "rate"),
        ({"meters": {"runs": {"hard": 1}}}, "meters.runs"),
        ({"meters": {"spans": 5}}, "meters.spans"),
        ({"meters": {"spans": {"hard": -1}}}, "meters.spans.hard"),
        ({"meters": {"spans": {"hard": MAX_AMOUNT + 1}}}, "meters.spans.hard"),
        ({"meters": {"spans": {"hard": 10**40}}}, "meters.spans.hard"),
        ({"meters": {"spans": {"hard": 1, "soft": 2}}}, "meters.spans.soft"),
        ({"meters": {"bytes": {"hard": 0, "soft": 1}}}, "meters.bytes.soft"),
        ({"retention_days": 0}, "retention_days"),
        ({"retention_days": 2**31}, "retention_days"),
        ({"eval_concurrency": 0}, "eval_concurrency"),
        ({"query_concurrency": -3}, "query_concurrency"),
        ({"price": 5}, "price"),
        ([], "the body"),
        (None, "the body"),
        ("x", "the body"),
    ],
)
async def test_a_value_that_is_not_acceptable_is_named_and_nothing_is_changed(
    api: httpx.AsyncClient, operator: Any, plan_name: str, document: Any, named: str, trail: Any
) -> None:
    await put(api, operator, plan_name, WHOLE)
    before = await trail.length()
    answer = await put(api, operator, plan_name, document if not isinstance(document, dict) else WHOLE | document)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{named}: ")
    assert answer.json()["hint"]
    assert await listed(api, operator, plan_name) == WHOLE | {"name": plan_name}
    assert await trail.length() == before


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, "rate"),
        *(({name: WHOLE[name] for name in SAYS if name != absent}, absent) for absent in SAYS),
        *((dict.fromkeys(name for name in SAYS if name != absent), absent) for absent in SAYS),
        (WHOLE | {"rate": {}}, "rate.requests_per_s"),
        (WHOLE | {"rate": {"burst": 5}}, "rate.requests_per_s"),
        (WHOLE | {"meters": {"spans": {}}}, "meters.spans.hard"),
        (WHOLE | {"meters": {"spans": {"soft": 5}}}, "meters.spans.hard"),
        (WHOLE | {"meters": {"spans": {"hard": 5}, "bytes": {"soft": None}}}, "meters.bytes.hard"),
    ],
)
async def test_half_a_plan_is_refused_by_the_name_of_what_is_missing(
    api: httpx.AsyncClient, operator: Any, plan_name: str, document: Any, named: str, trail: Any
) -> None:
    async def names() -> set[str]:
        return {plan["name"] for plan in (await api.get("/v1/admin/plans", headers=operator)).json()["items"]}

    answer = await put(api, operator, plan_name, document)
    assert (answer.status_code, answer.json()["detail"]) == (422, f"{named}: is missing.")
    assert plan_name not in await names()
    await put(api, operator, plan_name, WHOLE)
    before = await trail.length()
    assert (await put(api, operator, plan_name, document)).status_code == 422
    assert await listed(api, operator, plan_name) == WHOLE | {"name": plan_name}
    assert await trail.length() == before


@pytest.mark.parametrize("name", ["A", "-a", "_a", "a b", "ä", "a" * 64, "a.b", "a%00b", "a%0A", "%F0%9F%92%A5"])
async def test_a_name_no_plan_can_have_is_refused(api: httpx.AsyncClient, operator: Any, name: str) -> None:
    answer = await put(api, operator, name, WHOLE)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("name: ")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b'{"rate": {"requests_per_s": NaN}}', {}, 400),
        (b'{"rate": {"requests_per_s": Infinity}}', {}, 400),
        (b'{"a\xff": 1}', {}, 400),
        (b'{"\\ud800": 1}', {}, 400),
        (b"[" * 60_000, {}, 422),
        (b'{"a":' * 10_000, {}, 422),
        (b'{"retention_days": 1e999}', {}, 422),
        (b'{"meters": null}' + b" " * (64 << 10), {}, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"content-type": ""}, 415),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (json.dumps(WHOLE).encode(), {"content-type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    api: httpx.AsyncClient, operator: Any, plan_name: str, content: bytes, headers: Any, status: int
) -> None:
    sent = operator | {"content-type": "application/json"} | headers
    answer = await api.put(f"/v1/admin/plans/{plan_name}", content=content, headers=sent)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.headers["content-type"] == "application/problem+json"


amounts = st.none() | st.integers(0, MAX_AMOUNT)
meters = st.none() | st.tuples(amounts, amounts).map(
    lambda pair: {"hard": pair[0], "soft": pair[1] if None in pair else min(pair)}
)
plans = st.fixed_dictionaries(
    {},
    optional={
        "rate": st.none()
        | st.fixed_dictionaries(
            {"requests_per_s": st.none() | st.integers(1, MAX_REQUESTS_PER_S)},
            optional={"burst": st.none() | st.integers(1, MAX_BURST)},
        ),
        "meters": st.none() | st.fixed_dictionaries({}, optional={"spans": meters, "bytes": meters}),
        "retention_days": st.none() | st.integers(1, 36_500),
        "eval_concurrency": st.none() | st.integers(1, 10_000),
        "query_concurrency": st.none() | st.integers(1, 10_000),
    },
)


@given(document=plans)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_plan_is_put_is_shown_so_and_putting_that_changes_nothing(
    api: httpx.AsyncClient, operator: Any, document: Any, trail: Any
) -> None:
    document = SAYS_NOTHING | document
    answer = await put(api, operator, "any", document)
    assert answer.status_code == 200, answer.text
    plan = await listed(api, operator, "any")
    assert plan == answer.json()
    assert plan == msgspec.to_builtins(shown("any", read(msgspec.json.encode(document), Limits)))
    before = await trail.length()
    again = {name: value for name, value in plan.items() if name != "name"}
    assert (await put(api, operator, "any", again)).json() == plan
    assert await trail.length() == before
    for name in ("retention_days", "eval_concurrency", "query_concurrency"):
        assert plan[name] == document.get(name)
    for meter in ("spans", "bytes"):
        sent = (document.get("meters") or {}).get(meter) or {"hard": None, "soft": None}
        kept = (plan["meters"] or {}).get(meter) or {"hard": None, "soft": None}
        assert kept == sent


async def test_another_process_knows_a_changed_plan_within_a_second(
    api: httpx.AsyncClient,
    operator: Any,
    plan_name: str,
    control: Any,
    hot_store: Any,
    stores: Any,
    within_a_second: Any,
) -> None:
    await put(api, operator, plan_name, SAYS_NOTHING | {"meters": {"spans": {"hard": 5}}})
    made = (await api.post("/v1/admin/orgs", json={"name": "o", "plan": plan_name}, headers=operator)).json()
    async with resolving(control, hot_store, stores.redis_url) as elsewhere:

        async def limits() -> tuple[Any, Any]:
            allowance = (await elsewhere.resolve("", made["api_key"])).allowance
            return allowance.rate, dict(allowance.meters)

        assert await limits() == (None, {"spans": (5, None)})
        changed = SAYS_NOTHING | {"rate": {"requests_per_s": 3}, "meters": {"bytes": {"hard": 9}}}
        await put(api, operator, plan_name, changed)

        async def knows() -> bool:
            return await limits() == ((3, 3), {"bytes": (9, None)})

        await within_a_second(knows)
