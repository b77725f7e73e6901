"""``tracebility orgs``: the organisations of an installation, for whoever runs it."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from tracebility.audit.events import Actor
from tracebility.commands.changes import OrgArgument, Yes, changing, confirm, document, now, org_of, reading
from tracebility.commands.options import AsJson, DataDir, days_of, new_app, tell
from tracebility.deletion import jobs
from tracebility.deletion.jobs import Deletion
from tracebility.errors import TracebilityError
from tracebility.ids import OrgId
from tracebility.orgs import orgs
from tracebility.orgs.orgs import MadeOrg, Org, read_org, shape_org
from tracebility.stores.postgres import Postgres, Transaction
from tracebility.validation import checked

# The word that gives an org its plan's retention back.
AS_THE_PLAN = "plan"

app = new_app()


@app.command("list")
def list_orgs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many, oldest first.")] = 1000,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List organisations, oldest first, with their plans.

    Examples:

      tracebility orgs list

      tracebility orgs list --json
    """

    async def read(control: Postgres) -> list[Org]:
        first = datetime(1970, 1, 1, tzinfo=UTC)
        return [shape_org(row) for row in await control.fetch("read_orgs", first, UUID(int=0), limit)]

    found = reading(data_dir, read)
    text = "\n".join(_line(org) for org in found) or "There are no organisations."
    tell(text, {"items": document(found)}, as_json=as_json)


@app.command("show")
def show_org(org_id: OrgArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one organisation.

    Examples:

      tracebility orgs show 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: Postgres) -> Org:
        return await read_org(control, await org_of(control, org_id))

    found = reading(data_dir, read)
    tell(_line(found), document(found), as_json=as_json)


@app.command("create")
def create_org(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    plan: Annotated[str, typer.Option("--plan", help="The plan it is on.")] = "free",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an organisation with a workspace, a project and a key, which is shown this once.

    Examples:

      tracebility orgs create "Acme Ltd" --plan team
    """

    async def make(transaction: Transaction, actor: Actor) -> MadeOrg:
        return await orgs.create_org(transaction, actor, checked(orgs.NewOrg, {"name": name, "plan": plan}), now())

    made = changing(data_dir, make)
    text = (
        f"org        {made.org_id}\nworkspace  {made.workspace_id}\nproject    {made.project_id}\n"
        f"key        {made.api_key}\nThe key is not shown again."
    )
    tell(text, document(made), as_json=as_json)


@app.command("set")
def set_org(
    org_id: OrgArgument,
    plan: Annotated[str | None, typer.Option("--plan", help="Put it on this plan.", show_default=False)] = None,
    suspended: Annotated[
        bool | None,
        typer.Option("--suspend/--resume", help="Refuse its keys everywhere, or let them in again; its data stays."),
    ] = None,
    retention_days: Annotated[
        str | None,
        typer.Option("--retention-days", help="Days, or 'plan' for what its plan has.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change an organisation; what is not named stays. Every process knows within a second.

    Examples:

      tracebility orgs set 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --plan team --retention-days 30

      tracebility orgs set 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --suspend
    """
    named: dict[str, object] = {}
    if plan is not None:
        named["plan"] = plan
    if suspended is not None:
        named["suspended"] = suspended
    if retention_days is not None:
        named["retention_days"] = days_of("--retention-days", retention_days, AS_THE_PLAN)
    if not named:
        raise TracebilityError("Name what to change: --plan, --suspend, --resume or --retention-days.")

    async def change(transaction: Transaction, actor: Actor) -> Org:
        org = await org_of(transaction, org_id)
        return await orgs.change_org(transaction, actor, org, checked(orgs.OrgChanges, named), now())

    changed = changing(data_dir, change)
    tell(_line(changed), document(changed), as_json=as_json)


@app.command("delete")
def delete_org(
    org_id: OrgArgument,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete an organisation with all it has stored, for good. Its keys are refused at once.

    Usage and the audit log stay. 'tracebility deletions show' tells how far it is.

    Examples:

      tracebility orgs delete 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a

      tracebility orgs delete 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --yes --json
    """

    async def name_of(control: Postgres) -> str:
        return (await read_org(control, await org_of(control, org_id))).name

    async def delete(transaction: Transaction, actor: Actor) -> Deletion:
        return await jobs.delete_org(transaction, actor, OrgId(org_id), now())

    name = reading(data_dir, name_of)
    confirm(f"Delete {name!r} with all it has stored?", yes=yes)
    job = changing(data_dir, delete)
    tell(f"Deletion {job.id} of {name!r} is {job.state}.", document(job), as_json=as_json)


@app.command("delete-user")
def delete_user(
    org_id: OrgArgument,
    user_id: Annotated[str, typer.Argument(help="The user as spans name them.", metavar="USER_ID")],
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete every run of an organisation that names this user, for good. New ones may come after it.

    'tracebility deletions show' prints how far it is, and its certificate.

    Examples:

      tracebility orgs delete-user 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a user-42 --yes
    """
    asked = checked(jobs.UserDeletion, {"user_id": user_id})

    async def delete(transaction: Transaction, actor: Actor) -> Deletion:
        return await jobs.delete_user(transaction, actor, await org_of(transaction, org_id), asked)

    reading(data_dir, lambda control: org_of(control, org_id))
    confirm(f"Delete every run of user {user_id!r}?", yes=yes)
    job = changing(data_dir, delete)
    tell(f"Deletion {job.id} of user {user_id!r} is {job.state}.", document(job), as_json=as_json)


def _line(org: Org) -> str:
    retention = f"{org.retention_days} days" if org.retention_days else "as the plan"
    state = "DELETED" if org.deleted_at else "SUSPENDED" if org.suspended else "active"
    return f"{org.id}  {org.plan:<12} {state:<9}  {retention:<11}  {org.name}"
