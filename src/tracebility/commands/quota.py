"""``tracebility quota``: what an organisation has used of its plan, and its settlement."""

from typing import Annotated
from uuid import UUID

import typer

from tracebility import times
from tracebility.audit.events import AuditWriter, Event, EventType
from tracebility.commands.changes import OrgArgument, actor, document, now, org_of, reading
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.stores import Stores, log_to_stderr, with_stores
from tracebility.errors import TracebilityError
from tracebility.quota import usage
from tracebility.quota.quotas import MeterUsage, Quotas, read_quotas
from tracebility.quota.reconciler import QuotaReconciler, Tick
from tracebility.quota.usage import UsageByHour, read_usage
from tracebility.stores.ledger import RawRows
from tracebility.stores.postgres import Postgres

app = new_app()


@app.command("show")
def show_quota(org_id: OrgArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show an organisation's usage of this month, as last summed from the data plane.

    Examples:

      tracebility quota show 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: Postgres) -> Quotas:
        return await read_quotas(control, await org_of(control, org_id), now())

    quotas = reading(data_dir, read)
    lines = [f"plan {quotas.plan}, {quotas.period}", *(_line(meter) for meter in quotas.meters)]
    tell("\n".join(lines), document(quotas), as_json=as_json)


@app.command("usage")
def show_usage(
    org_id: OrgArgument,
    since: Annotated[str, typer.Option("--from", help="From the hour of this time on (RFC 3339).")],
    until: Annotated[str, typer.Option("--to", help="Before the hour of this time (RFC 3339).")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print lines of CSV; the org's audit log records it.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what an organisation has used, hour by hour, for invoices. Settled hours change no more.

    Examples:

      tracebility quota usage 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z

      tracebility quota usage 0192f0c1-... --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --csv > november.csv
    """
    if as_csv and as_json:
        raise TracebilityError("--csv or --json, not both.")
    found = with_stores(data_dir, lambda stores: _usage(stores, org_id, since, until, exported=as_csv))
    if as_csv:
        typer.echo(usage.as_csv(found), nl=False)
        return
    lines = [
        f"{one.hour}  {one.meter:<6} {one.quantity:>16}{'' if one.settled else '  not settled yet'}"
        for one in found.items
    ]
    tell("\n".join(lines) or "Nothing was used then.", document(found), as_json=as_json)


async def _usage(stores: Stores, org_id: UUID, since: str, until: str, *, exported: bool) -> UsageByHour:
    from_ns, to_ns = (_nanoseconds(name, text) for name, text in (("--from", since), ("--to", until)))
    control = await stores.control()
    org = await org_of(control, org_id)
    used = await read_usage(control, RawRows(await stores.engine(), org), org, from_ns, to_ns)
    if exported:
        details = {"route": "quota usage", "count": 1}
        event = Event(EventType.EGRESS_EXPORTED, org, actor(), "org", str(org), details)
        async with control.transaction() as transaction:
            await AuditWriter().record(transaction, event)
    return used


def _nanoseconds(name: str, text: str) -> int:

    try:
        return times.bounded(text)
    except ValueError:
        raise TracebilityError(f"{name} takes an RFC 3339 time such as 2026-03-01T12:00:00Z.") from None


@app.command("reconcile")
def reconcile(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Settle usage now: sum what is metered, and correct the control plane and the hot counters by it.

    The operator does so every minute. What was accepted in the last seconds is settled with the next.

    Examples:

      tracebility quota reconcile

      tracebility quota reconcile --json
    """

    async def settle(stores: Stores) -> Tick:
        return await QuotaReconciler(
            await stores.control(), await stores.engine(), await stores.queue(), await stores.redis_control()
        ).tick()

    log_to_stderr()
    done = with_stores(data_dir, settle)
    text = f"Settled up to {done.watermark}: {done.orgs} orgs had used something, {done.advanced} went forward."
    tell(text, done.document(), as_json=as_json)


def _line(meter: MeterUsage) -> str:
    hard = "unlimited" if meter.hard_limit is None else str(meter.hard_limit)
    return f"  {meter.meter:<6} {meter.used:>16} of {hard:<16} as of {meter.as_of or 'nothing yet'}"
