"""``tracebility quota``: what an organisation has used of its plan, and its settlement."""

import asyncio
from typing import TYPE_CHECKING

import typer

from tracebility.commands.changes import OrgArgument, document, now, reading
from tracebility.commands.options import AsJson, DataDir, log_to_stderr, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.control.quotas import MeterUsage, Quotas
    from tracebility.operator.quota import Tick
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
        from tracebility.control.quotas import read_quotas
        from tracebility.ids import OrgId

        return await read_quotas(control, OrgId(org_id), now())

    quotas = reading(data_dir, read)
    lines = [f"plan {quotas.plan}, {quotas.period}", *(_line(meter) for meter in quotas.meters)]
    tell("\n".join(lines), document(quotas), as_json=as_json)


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
    from tracebility.operator.quota import QuotaReconciler
    from tracebility.stores import clickhouse, hot, postgres, redis

    found = locate(data_dir)
    async with AsyncExitStack() as stack:
        control = await postgres.connect(found.pg_dsn, wait_s=0)
        stack.push_async_callback(control.close)
        queue = await redis.connect(found.redis_url, wait_s=0)
        stack.push_async_callback(queue.close)
        control_role = await hot.connect(found.redis_url, wait_s=0)
        stack.push_async_callback(control_role.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)
        return await QuotaReconciler(control, engine, queue, control_role).tick()


def _line(meter: "MeterUsage") -> str:
    hard = "unlimited" if meter.hard_limit is None else str(meter.hard_limit)
    return f"  {meter.meter:<6} {meter.used:>16} of {hard:<16} as of {meter.as_of or 'nothing yet'}"
