"""Plans: what the orgs on one may send, keep and run at once. Null, or absent, is unlimited."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from tracebility.control.documents import LARGEST, unacceptable
from tracebility.stores.postgres import Row, Statements, Transaction
from tracebility.tenant.audit import Actor, AuditWriter, Event, EventType
from tracebility.tenant.quota import METERS

# What the limiter can count, and what one process can serve at most is far below.
MOST_REQUESTS_PER_S = 1_000_000
LARGEST_BURST = 10_000_000
LONGEST_RETENTION_DAYS = 36_500
MOST_AT_ONCE = 10_000

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)

RequestsPerS = Annotated[int, Meta(ge=1, le=MOST_REQUESTS_PER_S)]
Burst = Annotated[int, Meta(ge=1, le=LARGEST_BURST)]
RetentionDays = Annotated[int, Meta(ge=1, le=LONGEST_RETENTION_DAYS)]
AtOnce = Annotated[int, Meta(ge=1, le=MOST_AT_ONCE)]
Amount = Annotated[int, Meta(ge=0, le=LARGEST)]


class PlanRate(msgspec.Struct, forbid_unknown_fields=True):
    """Requests of an org, over all its keys. A burst that is not given is a second's worth."""

    requests_per_s: RequestsPerS | None = None
    burst: Burst | None = None

    def __post_init__(self) -> None:
        if self.burst is None:
            self.burst = self.requests_per_s and min(self.requests_per_s, LARGEST_BURST)


class PlanMeter(msgspec.Struct, forbid_unknown_fields=True):
    """What a meter may come to in a month. A hard limit of 0 refuses everything; at the soft one the org is told."""

    hard: Amount | None = None
    soft: Amount | None = None

    def __post_init__(self) -> None:
        if self.hard is not None and self.soft is not None and self.soft > self.hard:
            raise ValueError(f"soft: takes at most hard, {self.hard}")


class PlanMeters(msgspec.Struct, forbid_unknown_fields=True):
    """The meters there are."""

    spans: PlanMeter | None = None
    bytes: PlanMeter | None = None


class PlanLimits(msgspec.Struct, forbid_unknown_fields=True):
    """A whole plan, as it is put."""

    rate: PlanRate | None = None
    meters: PlanMeters | None = None
    retention_days: RetentionDays | None = None
    eval_concurrency: AtOnce | None = None
    query_concurrency: AtOnce | None = None


class Plan(PlanLimits, kw_only=True):
    """A plan as it is shown: as it was put, and its name."""

    name: str


class PlanPage(msgspec.Struct, kw_only=True):
    """Every plan, by name: there are as many as operators have made, so one page holds them."""

    items: list[Plan]
    next_cursor: str | None = None


async def put_plan(transaction: Transaction, actor: Actor, name: str, limits: PlanLimits) -> Plan:
    """Make ``name`` what ``limits`` says, all of it. The same again changes nothing and leaves no event.

    Raises:
        Unprocessable: when no plan can have this name.
    """
    if NAME.fullmatch(name) is None:
        raise unacceptable("name", "a plan's name takes 1 to 63 of a-z, 0-9, _ and -, the first a letter or a digit")
    made = await transaction.execute("insert_plan", name) == "INSERT 0 1"
    before = None if made else _shape(await transaction.fetchrow("lock_plan", name))
    after = shown(name, limits)
    if before == after:
        return after
    rate = limits.rate or PlanRate()
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
        limit: PlanMeter | None = getattr(limits.meters, meter, None)
        if limit is not None and limit != PlanMeter():
            await transaction.execute("insert_plan_meter", name, meter, limit.hard, limit.soft)
    details = {"old": before and msgspec.to_builtins(before), "new": msgspec.to_builtins(after)}
    await AuditWriter().record(transaction, Event(EventType.PLAN_CHANGED, None, actor, "plan", name, details))
    return after


async def every_plan(control: Statements) -> PlanPage:
    """All of them."""
    return PlanPage(items=[_shape(row) for row in await control.fetch("read_plans")])


def shown(name: str, limits: PlanLimits) -> Plan:
    """``limits`` as they are shown: what says nothing is null, at whatever depth it was said."""
    rate, meters = limits.rate, limits.meters
    if meters is not None:
        spans, octets = (meter if meter != PlanMeter() else None for meter in (meters.spans, meters.bytes))
        meters = PlanMeters(spans, octets) if spans or octets else None
    return Plan(
        name=name,
        rate=rate if rate != PlanRate() else None,
        meters=meters,
        retention_days=limits.retention_days,
        eval_concurrency=limits.eval_concurrency,
        query_concurrency=limits.query_concurrency,
    )


def _shape(row: Row | None) -> Plan:
    assert row is not None
    meters = {meter: PlanMeter(hard, soft) for meter, (hard, soft) in row["meters"].items()}
    limits = PlanLimits(
        rate=PlanRate(row["requests_per_s"], row["burst"]),
        meters=PlanMeters(**meters),
        retention_days=row["retention_days"],
        eval_concurrency=row["eval_concurrency"],
        query_concurrency=row["query_concurrency"],
    )
    return shown(row["name"], limits)
