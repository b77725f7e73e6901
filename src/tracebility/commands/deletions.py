"""``tracebility deletions``: what was asked to be removed, how far that is, and the certificates."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from tracebility.commands.changes import OrgArgument, document, id_of, reading
from tracebility.commands.options import AsJson, DataDir, tell

if TYPE_CHECKING:
    from tracebility.deletion.jobs import Deletion
    from tracebility.stores.postgres import Postgres

JobArgument = Annotated[UUID, typer.Argument(help="The deletion's id.", metavar="JOB", parser=id_of)]

group = typer.Typer(no_args_is_help=True, help="List deletions, or show one with its certificate.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="deletions")


@group.command("list")
def list_deletions(
    org_id: OrgArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")] = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List an organisation's deletions, newest first.

    Examples:

      tracebility deletions list 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: "Postgres") -> "list[Deletion]":
        from datetime import UTC, datetime

        from tracebility.deletion.jobs import shape_deletion

        last = datetime(9000, 1, 1, tzinfo=UTC)
        rows = await control.fetch("read_deletions_of_org", org_id, last, UUID(int=0), limit)
        return [shape_deletion(row) for row in rows]

    found = reading(data_dir, read)
    text = "\n".join(line(job) for job in found) or "There are no deletions."
    tell(text, {"items": document(found)}, as_json=as_json)


@group.command("show")
def show_deletion(job_id: JobArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one deletion: how far it is, what went, and the hash of its certificate.

    Examples:

      tracebility deletions show 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --json
    """

    async def read(control: "Postgres") -> "Deletion":
        from tracebility.deletion.jobs import read_deletion

        return await read_deletion(control, job_id)

    job = reading(data_dir, read)
    lines = [line(job), *(f"  {table:<20} {rows:>12,}" for table, rows in job.counts_before.items() if rows)]
    if job.certificate_hash:
        lines.append(f"certificate  sha256 {job.certificate_hash}")
    if job.error:
        lines.append(f"last error   {job.error}")
    tell("\n".join(lines), document(job), as_json=as_json)


def line(job: "Deletion") -> str:
    """A deletion in a line."""
    at = job.step if job.state == "running" else ""
    return f"{job.id}  {job.requested_at}  {job.kind:<7} {job.state:<7} {at:<7} {job.target}"
