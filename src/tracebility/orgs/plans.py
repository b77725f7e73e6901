"""Plans: the limits of the orgs that are on them. Null, or an absent meter, is unlimited."""

import re

import msgspec

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.stores.postgres import Row, Statements, Transaction
from tracebility.tenant.limits import Limits, MeterLimits, Meters, RateLimits
from tracebility.tenant.quota import METERS
from tracebility.validation import unacceptable

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


class Plan(Limits, kw_only=True):
    """A plan with its name."""

    name: str


class PlanPage(msgspec.Struct, kw_only=True):
    """All plans by name. Operators create few, so they fit on one page."""

    items: list[Plan]
    next_cursor: str | None = None


async def put_plan(transaction: Transaction, actor: Actor, name: str, limits: Limits) -> Plan:
    """Create or replace the plan ``name``. Equal limits change nothing and write no event.

    Raises:
        Unprocessable: when the name is invalid.
    """
    if NAME.fullmatch(name) is None:
        raise unacceptable("name", "must be 1 to 63 characters of a-z, 0-9, _ and -, starting with a letter or a digit")
    made = await transaction.execute("insert_plan", name) == "INSERT 0 1"
    before = None if made else _shape(await transaction.fetchrow("lock_plan", name))
    after = shown(name, limits)
    if before == after:
        return after
    rate = limits.rate or RateLimits(None)
    await transaction.execute(
        "update_plan",
        name,
        rate.requests_per_s,
        rate.burst,
        limits.retention_days,
        limits.eval_concurrency,
        limits.query_concurrency,
    )
    await transaction.execute("delete_plan_meters", name)
    for meter in METERS:
        limit: MeterLimits | None = getattr(limits.meters, meter, None)
        if limit is not None and limit != MeterLimits(None):
            await transaction.execute("insert_plan_meter", name, meter, limit.hard, limit.soft)
    details = {"old": before and msgspec.to_builtins(before), "new": msgspec.to_builtins(after)}
    await AuditWriter().record(transaction, Event(EventType.PLAN_CHANGED, None, actor, "plan", name, details))
    return after


async def every_plan(control: Statements) -> PlanPage:
    """Return all plans."""
    return PlanPage(items=[_shape(row) for row in await control.fetch("read_plans")])


def shown(name: str, limits: Limits) -> Plan:
    """Return the plan in its canonical form, with null for limits that limit nothing."""
    rate, meters = limits.rate, limits.meters
    if meters is not None:
        spans, octets = (meter if meter != MeterLimits(None) else None for meter in (meters.spans, meters.bytes))
        meters = Meters(spans, octets) if spans or octets else None
    return Plan(
        name=name,
        rate=rate if rate != RateLimits(None) else None,
        meters=meters,
        retention_days=limits.retention_days,
        eval_concurrency=limits.eval_concurrency,
        query_concurrency=limits.query_concurrency,
    )


def _shape(row: Row | None) -> Plan:
    assert row is not None
    meters = {meter: MeterLimits(hard, soft) for meter, (hard, soft) in row["meters"].items()}
    limits = Limits(
        rate=RateLimits(row["requests_per_s"], row["burst"]),
        meters=Meters(**meters),
        retention_days=row["retention_days"],
        eval_concurrency=row["eval_concurrency"],
        query_concurrency=row["query_concurrency"],
    )
    return shown(row["name"], limits)
