"""``tracebility projects``: the projects of an organisation; deleting one, or a run of it."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from tracebility.audit.events import Actor
from tracebility.commands.changes import (
    OrgArgument,
    ProjectArgument,
    Yes,
    changing,
    confirm,
    document,
    now,
    org_of,
    project_of,
    reading,
)
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.deletion import jobs
from tracebility.deletion.jobs import Deletion
from tracebility.errors import NotFound, TracebilityError
from tracebility.stores.postgres import Postgres, Transaction
from tracebility.validation import stamp

app = new_app()


@app.command("list")
def list_projects(
    org_id: OrgArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many, oldest first.")] = 1000,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List an organisation's projects, oldest first, with their workspaces.

    Examples:

      tracebility projects list 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: Postgres) -> list[dict[str, Any]]:
        org = await org_of(control, org_id)
        first = datetime(1970, 1, 1, tzinfo=UTC)
        rows = await control.fetch("read_projects_of_org", org, first, UUID(int=0), limit)
        return [
            {
                "project_id": str(row["project_id"]),
                "name": row["name"],
                "workspace_id": str(row["workspace_id"]),
                "workspace_name": row["workspace_name"],
                "created_at": stamp(row["created_at"]),
            }
            for row in rows
        ]

    found = reading(data_dir, read)
    lines = [f"{one['project_id']}  {one['created_at']}  {one['workspace_name']} / {one['name']}" for one in found]
    tell("\n".join(lines) or "There are no projects.", {"items": found}, as_json=as_json)


@app.command("delete")
def delete_project(
    project_id: ProjectArgument, yes: Yes = False, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Delete a project with all it has stored, for good. Its keys are refused at once.

    'tracebility deletions show' prints how far it is, and its certificate.

    Examples:

      tracebility projects delete 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --yes
    """

    async def delete(transaction: Transaction, actor: Actor) -> Deletion:
        return await jobs.delete_project(transaction, actor, await project_of(transaction, project_id), now())

    reading(data_dir, lambda control: project_of(control, project_id))
    confirm(f"Delete project {project_id} with all it has stored?", yes=yes)
    job = changing(data_dir, delete)
    tell(f"Deletion {job.id} of project {project_id} is {job.state}.", document(job), as_json=as_json)


@app.command("delete-run")
def delete_run(
    project_id: ProjectArgument,
    run_id: Annotated[str, typer.Argument(help="The run's id, as 'GET /v1/projects/{id}/runs' has it.", metavar="RUN")],
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete a run of a project with its spans, scores and captures, for good.

    The certificate says whether there was one: 'tracebility deletions show'.

    Examples:

      tracebility projects delete-run 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 4bf92f3577b34da6a3ce929d0e0e4736 --yes
    """

    async def delete(transaction: Transaction, actor: Actor) -> Deletion:
        try:
            return await jobs.delete_run(transaction, actor, await project_of(transaction, project_id), run_id)
        except NotFound:
            raise TracebilityError("RUN is not the id of a run: a UUID, or 16 or 32 hex digits.") from None

    reading(data_dir, lambda control: project_of(control, project_id))
    confirm(f"Delete run {run_id} with all its spans?", yes=yes)
    job = changing(data_dir, delete)
    tell(f"Deletion {job.id} of run {run_id} is {job.state}.", document(job), as_json=as_json)
