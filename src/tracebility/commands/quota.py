"""``tracebility quota``: what an organisation has used of its plan, and its settlement."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from tracebility.commands.changes import OrgArgument, actor, document, now, reading
from tracebility.commands.options import AsJson, DataDir, log_to_stderr, tell
from tracebility.errors import TracebilityError

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.ids import OrgId
    from tracebility.quota.quotas import MeterUsage, Quotas
    from tracebility.quota.reconciler import Tick
    from tracebility.quota.usage import UsageByHour
    from tracebility.stores.postgres import Postgres

group = typer.Typer(no_args_is_help=True, help="Show what an organisation has used of its plan, and settle it.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="quota")


@group.command("show")
def show_quota(org_id: OrgArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show an organisation's usage of this month, as last summed from the data plane.

    Examples:

      tracebility quota show 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: "Postgres") -> "Quotas":
        from tracebility.ids import OrgId
        from tracebility.quota.quotas import read_quotas

        return await read_quotas(control, OrgId(org_id), now())

    quotas = reading(data_dir, read)
    lines = [f"plan {quotas.plan}, {quotas.period}", *(_line(meter) for meter in quotas.meters)]
    tell("\n".join(lines), document(quotas), as_json=as_json)


@group.command("usage")
def show_usage(
    org_id: OrgArgument,
    since: Annotated[str, typer.Option("--from", help="From the hour of this time on (RFC 3339).")],
    until: Annotated[str, typer.Option("--to", help="Before the hour of this time (RFC 3339).")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print lines of CSV; the org's trail says so.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what an organisation has used, hour by hour, for invoices. Settled hours change no more.

    Examples:

      tracebility quota usage 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z

      tracebility quota usage 0192f0c1-... --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --csv > november.csv
    """
    from tracebility.ids import OrgId
    from tracebility.quota import usage

    if as_csv and as_json:
        raise TracebilityError("--csv or --json, not both.")
    found = asyncio.run(_usage(data_dir, OrgId(org_id), since, until, exported=as_csv))
    if as_csv:
        typer.echo(usage.as_csv(found), nl=False)
        return
    lines = [
        f"{one.hour}  {one.meter:<6} {one.quantity:>16}{'' if one.settled else '  not settled yet'}"
        for one in found.items
    ]
    tell("\n".join(lines) or "Nothing was used then.", document(found), as_json=as_json)


async def _usage(data_dir: "Path | None", org_id: "OrgId", since: str, until: str, *, exported: bool) -> "UsageByHour":
    from contextlib import AsyncExitStack

    from tracebility.audit.events import AuditWriter, Event, EventType
    from tracebility.embedded.installation import locate
    from tracebility.orgs.orgs import read_org
    from tracebility.quota.usage import read_usage
    from tracebility.stores import clickhouse, postgres
    from tracebility.stores.ledger import RawRows

    found = locate(data_dir)
    from_ns, to_ns = (_nanoseconds(name, text) for name, text in (("--from", since), ("--to", until)))
    async with AsyncExitStack() as stack:
        control = await postgres.connect(found.pg_dsn, wait_s=0)
        stack.push_async_callback(control.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)
        used = await read_usage(control, RawRows(engine, org_id), org_id, from_ns, to_ns)
        await read_org(control, org_id)  # raises when there is none: nobody's usage is not the same as none
        if exported:
            details = {"route": "quota usage", "count": 1}
            event = Event(EventType.EGRESS_EXPORTED, org_id, actor(), "org", str(org_id), details)
            async with control.transaction() as transaction:
                await AuditWriter().record(transaction, event)
        return used


def _nanoseconds(name: str, text: str) -> int:
    from tracebility import times

    try:
        return times.bounded(text)
    except ValueError:
        raise TracebilityError(f"{name} takes an RFC 3339 time such as 2026-03-01T12:00:00Z.") from None


@group.command("reconcile")
def reconcile(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Settle usage now: sum what is metered, and correct the control plane and the hot counters by it.

    The operator does so every minute. What was accepted in the last seconds is settled with the next.

    Examples:

      tracebility quota reconcile

      tracebility quota reconcile --json
    """
    log_to_stderr()
    done = asyncio.run(_reconcile(data_dir))
    text = f"Settled up to {done.watermark}: {done.orgs} orgs had used something, {done.advanced} went forward."
    tell(text, done.document(), as_json=as_json)


async def _reconcile(data_dir: "Path | None") -> "Tick":
    from contextlib import AsyncExitStack

    from tracebility.embedded.installation import locate
    from tracebility.quota.reconciler import QuotaReconciler
    from tracebility.stores import clickhouse, postgres, redis_control
    from tracebility.stores.queue import connect_queue

    found = locate(data_dir)
    async with AsyncExitStack() as stack:
        control = await postgres.connect(found.pg_dsn, wait_s=0)
        stack.push_async_callback(control.close)
        queue = await connect_queue(found.queue_url, variable=found.queue_variable, wait_s=0)
        stack.push_async_callback(queue.close)
        control_role = await redis_control.connect(found.redis_url, wait_s=0)
        stack.push_async_callback(control_role.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)
        return await QuotaReconciler(control, engine, queue, control_role).tick()


def _line(meter: "MeterUsage") -> str:
    hard = "unlimited" if meter.hard_limit is None else str(meter.hard_limit)
    return f"  {meter.meter:<6} {meter.used:>16} of {hard:<16} as of {meter.as_of or 'nothing yet'}"
