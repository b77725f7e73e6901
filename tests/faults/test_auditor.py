"""Who audits the auditor: books that balance pass, and each way of cooking them is named."""

from collections.abc import Callable
from typing import Any

import clickhouse_connect
import numpy as np
import pytest
from clickhouse_connect.driver.client import Client
from tests.harness.auditor import Auditor
from tests.harness.load import Ledger, Outcome, Sending
from tests.harness.payload import CANARY_KEY, Stamp, canary_of
from tests.harness.weather import Tenant

SPANS = 30
SPANS_A_TRACE = 10

_SPAN = """
    INSERT INTO span (org_id, project_id, trace_id, span_id, attributes, event_id, accepted_at, version)
    SELECT {org:UUID}, {org:UUID}, toString(intDiv(number, 10)), lower(hex({first:UInt64} + number)),
        map({key:String}, {canary:String}), reinterpretAsUUID(sipHash128({org:String}, number)), now64(6), 1
    FROM numbers({skip:UInt64}, {count:UInt64})
"""
_METER = """
    INSERT INTO billing_meter (org_id, project_id, period, meter, event_id, qty, accepted_at, version)
    SELECT org_id, project_id, '2026-01', meter, event_id, 1, accepted_at, 1
    FROM span FINAL ARRAY JOIN ['spans', 'bytes'] AS meter WHERE org_id = {org:UUID}
"""
_RUN = """
    INSERT INTO run (org_id, project_id, run_id, span_count, accepted_at, version)
    SELECT org_id, project_id, trace_id, count(), now64(6), 1 FROM span FINAL WHERE org_id = {org:UUID} GROUP BY ALL
"""


def ledger(first: int, outcome: Outcome = Outcome.ACKNOWLEDGED) -> Ledger:
    """One request of `SPANS` spans."""
    stamp = Stamp(np.arange(first, first + SPANS, dtype=np.uint64), b"")
    return Ledger([Sending(stamp, outcome, 200, 1, 0.0, 0.1)])


def store(engine: Client, org: str, first: int, skip: int = 0, count: int = SPANS, canary_for: str = "") -> None:
    """Rows as the worker would have left them."""
    canary = canary_of(canary_for or org)
    span = {"org": org, "first": first, "skip": skip, "count": count, "key": CANARY_KEY, "canary": canary}
    engine.command(_SPAN, parameters=span)
    engine.command(_METER, parameters={"org": org})
    engine.command(_RUN, parameters={"org": org})


def _lose(engine: Client, org: str, first: int) -> None:
    store(engine, org, first, count=SPANS - SPANS_A_TRACE)


def _double(engine: Client, org: str, first: int) -> None:
    store(engine, org, first)
    engine.command(
        "INSERT INTO span (org_id, project_id, trace_id, span_id, attributes, event_id, accepted_at) SELECT org_id, "
        "project_id, 'another', span_id, attributes, event_id, accepted_at FROM span WHERE org_id = {org:UUID} LIMIT 1",
        parameters={"org": org},
    )


def _invent(engine: Client, org: str, first: int) -> None:
    store(engine, org, first, count=SPANS + 1)


def _mix_tenants(engine: Client, org: str, first: int) -> None:
    store(engine, org, first, count=SPANS - 1)
    store(engine, org, first, skip=SPANS - 1, count=1, canary_for="another tenant")


def _bill_twice(engine: Client, org: str, first: int) -> None:
    store(engine, org, first)
    engine.command(
        "INSERT INTO billing_meter (org_id, project_id, period, meter, event_id, qty, accepted_at) "
        "SELECT org_id, project_id, '2026-02', meter, event_id, qty, accepted_at FROM billing_meter "
        "WHERE org_id = {org:UUID} AND meter = 'spans' LIMIT 1",
        parameters={"org": org},
    )


def _miscount_a_run(engine: Client, org: str, first: int) -> None:
    store(engine, org, first)
    engine.command(
        "INSERT INTO run (org_id, project_id, run_id, span_count, accepted_at, version) "
        "SELECT org_id, project_id, run_id, 9, accepted_at, 2 FROM run WHERE org_id = {org:UUID} LIMIT 1",
        parameters={"org": org},
    )


async def test_books_that_balance_pass(stores: Any, two_orgs: tuple[Tenant, Tenant]) -> None:
    org, first = str(two_orgs[0].org_id), 1 << 40
    with clickhouse_connect.get_client(dsn=stores.ready["clickhouse_url"]) as engine:
        store(engine, org, first)
    verdict = await Auditor(stores.ready).audit(ledger(first), org_id=org, tenant=org)
    assert verdict.problems == []
    assert (verdict.acknowledged, verdict.stored) == (SPANS, SPANS)


@pytest.mark.parametrize(
    ("cook", "named"),
    [
        (_lose, "10 spans lost"),
        (_double, "1 spans doubled"),
        (_invent, "1 spans invented"),
        (_mix_tenants, "1 rows without the tenant's own canary"),
        (_bill_twice, "31 spans metered, 30 stored"),
        (_miscount_a_run, "1 runs miscounted"),
    ],
)
async def test_cooked_books_are_named(
    stores: Any, two_orgs: tuple[Tenant, Tenant], cook: Callable[[Client, str, int], None], named: str
) -> None:
    org, first = str(two_orgs[0].org_id), 2 << 40
    with clickhouse_connect.get_client(dsn=stores.ready["clickhouse_url"]) as engine:
        cook(engine, org, first)
    verdict = await Auditor(stores.ready).audit(ledger(first), org_id=org, tenant=org)
    assert any(named in problem for problem in verdict.problems), verdict


async def test_what_was_refused_or_stays_unknown_may_be_missing(stores: Any, two_orgs: tuple[Tenant, Tenant]) -> None:
    org = str(two_orgs[0].org_id)
    for outcome in (Outcome.REFUSED, Outcome.UNKNOWN):
        verdict = await Auditor(stores.ready).audit(ledger(3 << 40, outcome), org_id=org, tenant=org)
        assert verdict.problems == []
