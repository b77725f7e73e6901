"""``tracebility orgs``: the organisations of an installation, for whoever runs it."""

from typing import TYPE_CHECKING, Annotated

import typer

from tracebility.commands.changes import OrgArgument, changing, document, now, reading
from tracebility.commands.options import AsJson, DataDir, days_of, tell
from tracebility.errors import TracebilityError

if TYPE_CHECKING:
    from tracebility.audit.events import Actor
    from tracebility.deletion.jobs import Deletion
    from tracebility.orgs.orgs import MadeOrg, Org
    from tracebility.stores.postgres import Postgres, Transaction

# The word that gives an org its plan's retention back.
AS_THE_PLAN = "plan"

group = typer.Typer(no_args_is_help=True, help="List, show, make, change or delete organisations.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="orgs")


@group.command("list")
def list_orgs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, oldest first.")] = 1000,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List organisations, oldest first, with their plans.

    Examples:

      tracebility orgs list

      tracebility orgs list --json
    """

    async def read(control: "Postgres") -> "list[Org]":
        from datetime import UTC, datetime
        from uuid import UUID

        from tracebility.orgs.orgs import shape_org

        first = datetime(1970, 1, 1, tzinfo=UTC)
        return [shape_org(row) for row in await control.fetch("read_orgs", first, UUID(int=0), limit)]

    found = reading(data_dir, read)
    text = "\n".join(_line(org) for org in found) or "There are no organisations."
    tell(text, {"items": document(found)}, as_json=as_json)


@group.command("show")
def show_org(org_id: OrgArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one organisation.

    Examples:

      tracebility orgs show 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def read(control: "Postgres") -> "Org":
        from tracebility.ids import OrgId
        from tracebility.orgs.orgs import read_org

        return await read_org(control, OrgId(org_id))

    found = reading(data_dir, read)
    tell(_line(found), document(found), as_json=as_json)


@group.command("create")
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

    async def make(transaction: "Transaction", actor: "Actor") -> "MadeOrg":
        from tracebility.orgs import orgs
        from tracebility.validation import checked

        return await orgs.create_org(transaction, actor, checked(orgs.NewOrg, {"name": name, "plan": plan}), now())

    made = changing(data_dir, make)
    text = (
        f"org        {made.org_id}\nworkspace  {made.workspace_id}\nproject    {made.project_id}\n"
        f"key        {made.api_key}\nThe key is not shown again."
    )
    tell(text, document(made), as_json=as_json)


@group.command("set")
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

    async def change(transaction: "Transaction", actor: "Actor") -> "Org":
        from tracebility.ids import OrgId
        from tracebility.orgs import orgs
        from tracebility.validation import checked

        return await orgs.change_org(transaction, actor, OrgId(org_id), checked(orgs.OrgChanges, named), now())

    changed = changing(data_dir, change)
    tell(_line(changed), document(changed), as_json=as_json)


@group.command("delete")
def delete_org(
    org_id: OrgArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether this is meant.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete an organisation with all it has stored, for good. Its keys are refused at once.

    Usage and the audit trail stay. 'tracebility deletions show' tells how far it is.

    Examples:

      tracebility orgs delete 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a

      tracebility orgs delete 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --yes --json
    """

    async def name_of(control: "Postgres") -> str:
        from tracebility.ids import OrgId
        from tracebility.orgs.orgs import read_org

        return (await read_org(control, OrgId(org_id))).name

    async def delete(transaction: "Transaction", actor: "Actor") -> "Deletion":
        from tracebility.deletion import jobs
        from tracebility.ids import OrgId

        return await jobs.delete_org(transaction, actor, OrgId(org_id), now())

    name = reading(data_dir, name_of)
    if not yes:
        typer.confirm(f"Delete {name!r} with all it has stored? This cannot be taken back.", abort=True, err=True)
    job = changing(data_dir, delete)
    tell(f"Deletion {job.id} of {name!r} is {job.state}.", document(job), as_json=as_json)


def _line(org: "Org") -> str:
    retention = f"{org.retention_days} days" if org.retention_days else "as the plan"
    state = "DELETED" if org.deleted_at else "SUSPENDED" if org.suspended else "active"
    return f"{org.id}  {org.plan:<12} {state:<9}  {retention:<11}  {org.name}"
