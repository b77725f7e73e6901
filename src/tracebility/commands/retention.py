"""``tracebility retention``: how long a project keeps its data, and removing old rows now."""

from typing import Annotated

import typer

from tracebility.audit.events import Actor
from tracebility.commands.changes import ProjectArgument, changing, document, project_of
from tracebility.commands.options import AsJson, DataDir, days_of, new_app, tell
from tracebility.commands.stores import Stores, log_to_stderr, with_stores
from tracebility.deletion.metrics import DeletionMetrics
from tracebility.deletion.retention import Aged, Retention
from tracebility.orgs import projects
from tracebility.orgs.projects import ChangedProject
from tracebility.stores.postgres import Transaction
from tracebility.telemetry import Metrics
from tracebility.validation import checked

# The word that gives a project its org's retention back.
AS_THE_ORG = "org"

app = new_app()


@app.command("set")
def set_retention(
    project_id: ProjectArgument,
    days: Annotated[str, typer.Argument(help=f"How many days; '{AS_THE_ORG}': as long as its org.", metavar="DAYS")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Set how many days a project keeps its data, never longer than its org does. Prints what holds.

    Examples:

      tracebility retention set 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 14

      tracebility retention set 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a org
    """
    wanted = days_of("DAYS", days, AS_THE_ORG)

    async def change(transaction: Transaction, actor: Actor) -> ChangedProject:
        changes = checked(projects.ProjectChanges, {"retention_days": wanted})
        place = await project_of(transaction, project_id)
        return await projects.change_project(transaction, actor, place, changes)

    changed = changing(data_dir, change)
    kept = "without an end" if changed.kept_days is None else f"for {changed.kept_days} days"
    text = f"{changed.name} keeps its data {kept}."
    if changed.retention_days is None:
        text += " That is its org's retention."
    elif changed.retention_days != changed.kept_days:
        text += f" {changed.retention_days} days are noted, but its org or its org's plan allows no more."
    tell(text, document(changed), as_json=as_json)


@app.command("apply")
def apply(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Remove rows that are older than their project keeps data, and print how many. The operator does so every hour.

    Examples:

      tracebility retention apply

      tracebility retention apply --json
    """

    async def remove(stores: Stores) -> Aged:
        metrics = DeletionMetrics(Metrics())
        return await Retention(
            await stores.control(), await stores.engine(), await stores.redis_control(), metrics
        ).tick()

    log_to_stderr()
    done = with_stores(data_dir, remove)
    rows = ", ".join(f"{count:,} of {table}" for table, count in done.rows.items()) or "no rows"
    tell(f"{done.projects} projects have a retention; removed: {rows}.", done.document(), as_json=as_json)
