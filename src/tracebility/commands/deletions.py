"""``tracebility deletions``: deletion jobs, how far they are, and their certificates."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from tracebility.commands.changes import OrgArgument, document, id_of, org_of, reading
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.deletion.jobs import Deletion, read_deletion, shape_deletion
from tracebility.errors import NotFound, TracebilityError
from tracebility.stores.postgres import Postgres

JobArgument = Annotated[UUID, typer.Argument(help="The deletion's id.", metavar="JOB", parser=id_of)]

app = new_app()


@app.command("list")
def list_deletions(
    org_id: OrgArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many, newest first.")] = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List an organisation's deletions, newest first.

    Examples:

      tracebility deletions list 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: Postgres) -> list[Deletion]:
        last = datetime(9000, 1, 1, tzinfo=UTC)
        rows = await control.fetch("read_deletions_of_org", await org_of(control, org_id), last, UUID(int=0), limit)
        return [shape_deletion(row) for row in rows]

    found = reading(data_dir, read)
    text = "\n".join(line(job) for job in found) or "There are no deletions."
    tell(text, {"items": document(found)}, as_json=as_json)


@app.command("show")
def show_deletion(job_id: JobArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one deletion: how far it is, how many rows it removed, and the hash of its certificate.

    Examples:

      tracebility deletions show 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --json
    """

    async def read(control: Postgres) -> Deletion:
        try:
            return await read_deletion(control, job_id)
        except NotFound:
            raise TracebilityError(
                f"There is no deletion {job_id}. 'tracebility deletions list ORG' shows an organisation's."
            ) from None

    job = reading(data_dir, read)
    lines = [line(job), *(f"  {table:<20} {rows:>12,}" for table, rows in job.counts_before.items() if rows)]
    if job.certificate_hash:
        lines.append(f"certificate  sha256 {job.certificate_hash}")
    if job.error:
        lines.append(f"last error   {job.error}")
    tell("\n".join(lines), document(job), as_json=as_json)


def line(job: Deletion) -> str:
    """A deletion in a line."""
    at = job.step if job.state == "running" else ""
    return f"{job.id}  {job.requested_at}  {job.kind:<7} {job.state:<7} {at:<7} {job.target}"
