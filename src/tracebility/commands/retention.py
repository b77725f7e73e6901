"""``tracebility retention``: how long a project keeps its data, and removing what is old now."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from tracebility.commands.changes import ProjectArgument, changing, document, place_of
from tracebility.commands.options import AsJson, DataDir, days_of, log_to_stderr, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.audit.events import Actor
    from tracebility.deletion.retention import Aged
    from tracebility.orgs.projects import ChangedProject
    from tracebility.stores.postgres import Transaction

# The word that gives a project its org's retention back.
AS_THE_ORG = "org"

group = typer.Typer(no_args_is_help=True, help="Say how long a project keeps its data; remove what is older now.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="retention")


@group.command("set")
def set_retention(
    project_id: ProjectArgument,
    days: Annotated[str, typer.Argument(help=f"How many days; '{AS_THE_ORG}': as long as its org.", metavar="DAYS")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have a project keep its data for so many days, never longer than its org does.

    Examples:

      tracebility retention set 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 14

      tracebility retention set 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a org
    """
    wanted = days_of("DAYS", days, AS_THE_ORG)

    async def change(transaction: "Transaction", actor: "Actor") -> "ChangedProject":
        from tracebility.orgs import projects
        from tracebility.validation import checked

        changes = checked(projects.ProjectChanges, {"retention_days": wanted})
        return await projects.change_project(transaction, actor, await place_of(transaction, project_id), changes)

    changed = changing(data_dir, change)
    kept = "as long as its org" if changed.retention_days is None else f"{changed.retention_days} days"
    tell(f"{changed.name} keeps its data {kept}.", document(changed), as_json=as_json)


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

    from tracebility.deletion.metrics import DeletionMetrics
    from tracebility.deletion.retention import Retention
    from tracebility.embedded.installation import locate
    from tracebility.stores import clickhouse, postgres, redis_control
    from tracebility.telemetry import Metrics

    found = locate(data_dir)
    async with AsyncExitStack() as stack:
        control = await postgres.connect(found.pg_dsn, wait_s=0)
        stack.push_async_callback(control.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)
        control_role = await redis_control.connect(found.redis_url, wait_s=0)
        stack.push_async_callback(control_role.close)
        return await Retention(control, engine, control_role, DeletionMetrics(Metrics())).tick()
