"""How a command reads and changes the control plane: in PostgreSQL, as an operator; every process is told."""

import os
import pwd
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import typer

from tracebility.audit.events import Actor
from tracebility.commands.stores import Stores, with_stores
from tracebility.errors import TracebilityError
from tracebility.ids import OrgId
from tracebility.orgs.projects import ProjectPlace
from tracebility.stores.postgres import Postgres, Statements, Transaction

T = TypeVar("T")


def id_of(text: str) -> UUID:
    """The id that an argument of a command is. The message does not repeat ``text``: it may be a secret."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter("not an id such as 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a.") from None


OrgArgument = Annotated[UUID, typer.Argument(help="The org's id.", metavar="ORG", parser=id_of)]
ProjectArgument = Annotated[UUID, typer.Argument(help="The project's id.", metavar="PROJECT", parser=id_of)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def confirm(question: str, *, yes: bool) -> None:
    """Ask on standard error, unless ``yes``. Anything but yes ends the command with exit code 1."""
    if not yes:
        typer.confirm(f"{question} This cannot be undone.", abort=True, err=True)


async def org_of(control: Statements, org_id: UUID) -> OrgId:
    """The org of this id, which may be deleted.

    Raises:
        TracebilityError: when there is none.
    """
    if await control.fetchrow("named_org", org_id, None) is None:
        raise TracebilityError(f"There is no organisation {org_id}. 'tracebility orgs list' shows those there are.")
    return OrgId(org_id)


async def project_of(control: Statements, project_id: UUID) -> ProjectPlace:
    """The project of this id, with its workspace and org.

    Raises:
        TracebilityError: when there is none, or it is deleted.
    """
    row = await control.fetchrow("named_project", project_id, None)
    if row is None:
        raise TracebilityError(f"There is no project {project_id}. 'tracebility projects list ORG' shows an org's.")
    return ProjectPlace(row["org_id"], row["workspace_id"], row["project_id"])


def reading(data_dir: Path | None, read: Callable[[Postgres], Awaitable[T]]) -> T:
    """What ``read`` returns for the control plane of the installation."""

    async def act(stores: Stores) -> T:
        return await read(await stores.control())

    return with_stores(data_dir, act)


def changing(data_dir: Path | None, change: Callable[[Transaction, Actor], Awaitable[T]]) -> T:
    """What ``change`` returns, committed. Processes are told at once; without Redis they ask within seconds."""

    async def act(stores: Stores) -> T:
        control = await stores.control()
        async with control.transaction() as transaction:
            done = await change(transaction, actor())
        with suppress(TracebilityError):  # it is committed, and Redis may be away
            await stores.tell_processes()
        return done

    return with_stores(data_dir, act)


def actor() -> Actor:
    """The user of this machine as an operator: whoever may read the installation's secrets is one."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without an entry
        name = str(os.getuid())
    return Actor("operator", f"cli:{name}")


def now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def document(content: Any) -> Any:
    """A result as ``--json`` prints it, which is what the API answers."""
    return msgspec.to_builtins(content)
