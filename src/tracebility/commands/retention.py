"""``tracebility retention``: removes what is old now, as the operator does every hour."""

import asyncio
from typing import TYPE_CHECKING

import typer

from tracebility.commands.options import AsJson, DataDir, log_to_stderr, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.operator.retention import Aged

group = typer.Typer(no_args_is_help=True, help="Remove what is older than its project keeps it.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="retention")


@group.callback()
def _retention() -> None:
    pass


@group.command("apply")
def apply(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Remove old rows now, and tell how many.

    The operator does so every hour. How long a project keeps its data is its own time, its org's or its plan's.

    Examples:

      tracebility retention apply

      tracebility retention apply --json
    """
    log_to_stderr()
    done = asyncio.run(_apply(data_dir))
    rows = ", ".join(f"{count:,} of {table}" for table, count in done.rows.items()) or "nothing was old"
    tell(f"{done.projects} projects keep their data for a while; removed: {rows}.", done.document(), as_json=as_json)


async def _apply(data_dir: "Path | None") -> "Aged":
    from contextlib import AsyncExitStack

    from tracebility.embedded.installation import locate
    from tracebility.operator.metrics import OperatorMetrics
    from tracebility.operator.retention import Retention
    from tracebility.stores import clickhouse, postgres
    from tracebility.telemetry import Metrics

    found = locate(data_dir)
    async with AsyncExitStack() as stack:
        control = await postgres.connect(found.pg_dsn, wait_s=0)
        stack.push_async_callback(control.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)
        return await Retention(control, engine, OperatorMetrics(Metrics())).tick()
