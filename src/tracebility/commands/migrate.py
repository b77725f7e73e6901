"""``tracebility migrate``: both stores to the schema of this release."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from tracebility.commands.options import AsJson, DataDir, new_app
from tracebility.embedded.installation import locate
from tracebility.stores import migrations
from tracebility.stores.migrations import Standing


class Action(StrEnum):
    """What to do with the migrations."""

    APPLY = "apply"
    STATUS = "status"
    BACK = "back"


app = new_app()


@app.command()
def migrate(
    action: Annotated[
        Action,
        typer.Argument(help="'status' only shows where each store stands; 'back' undoes a ClickHouse migration."),
    ] = Action.APPLY,
    number: Annotated[int | None, typer.Argument(min=1, help="With 'back': which one.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be applied; change nothing.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring the schemas of both stores up to date. Safe to run again; a second runner waits for the first.

    Examples:

      tracebility migrate

      tracebility migrate --dry-run

      tracebility migrate status --json

      tracebility migrate back 6
    """
    if (action is Action.BACK) != (number is not None):
        raise typer.BadParameter("'back' needs the number of a migration, and only 'back' takes one.")
    found = locate(data_dir)
    stores = (found.pg_dsn, found.clickhouse_url)
    if action is Action.STATUS:
        standings: Sequence[Standing] = asyncio.run(migrations.status(*stores))
        nothing = "There are no migrations."
    elif number is not None:
        asyncio.run(migrations.roll_back(number, *stores, say=lambda line: typer.echo(line, err=True)))
        standings = asyncio.run(migrations.status(*stores))
        nothing = "There are no migrations."
    elif dry_run:
        standings = asyncio.run(migrations.pending(*stores))
        nothing = "Nothing to apply: both stores are up to date."
    else:
        standings = asyncio.run(migrations.migrate(*stores, say=lambda line: typer.echo(line, err=True)))
        nothing = "Both stores are up to date."
    if as_json:
        typer.echo(json.dumps({"migrations": [asdict(standing) for standing in standings]}, default=str))
        return
    for standing in standings:
        at = f"{standing.at:%Y-%m-%d %H:%M} UTC" if standing.at else ""
        typer.echo(f"{standing.store:<10}  {standing.name:<40}  {standing.state:<11}  {at}".rstrip())
    if not standings:
        typer.echo(nothing)
