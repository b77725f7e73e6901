"""How a command reads and changes the control plane: in its store, as an operator, and every process is told."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from tracebility.errors import TracebilityError

if TYPE_CHECKING:
    from tracebility.audit.events import Actor
    from tracebility.orgs.projects import ProjectPlace
    from tracebility.stores.postgres import Postgres, Statements, Transaction

T = TypeVar("T")


def id_of(text: str) -> UUID:
    """The id that an argument of a command is."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an id such as 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a.") from None


OrgArgument = Annotated[UUID, typer.Argument(help="The org's id.", metavar="ORG", parser=id_of)]
ProjectArgument = Annotated[UUID, typer.Argument(help="The project's id.", metavar="PROJECT", parser=id_of)]


async def place_of(control: "Statements", project_id: object) -> "ProjectPlace":
    """The project of this id, and what it is in.

    Raises:
        TracebilityError: when there is none.
    """
    from tracebility.orgs.projects import ProjectPlace

    row = await control.fetchrow("named_project", project_id, None)
    if row is None:
        raise TracebilityError(f"There is no project {project_id}.")
    return ProjectPlace(row["org_id"], row["workspace_id"], row["project_id"])


def reading(data_dir: Path | None, read: "Callable[[Postgres], Awaitable[T]]") -> T:
    """What ``read`` makes of the control plane of the installation that is meant."""

    async def run() -> T:
        from tracebility.embedded.installation import locate
        from tracebility.stores import postgres

        control = await postgres.connect(locate(data_dir).pg_dsn, wait_s=0)
        try:
            return await read(control)
        finally:
            await control.close()

    return asyncio.run(run())


def changing(data_dir: Path | None, change: "Callable[[Transaction, Actor], Awaitable[T]]") -> T:
    """What ``change`` makes, committed. Processes hear of it at once, or by themselves where Redis is away."""

    async def with_control(control: "Postgres") -> T:
        async with control.transaction() as transaction:
            done = await change(transaction, actor())
        await _tell_processes(data_dir)
        return done

    return reading(data_dir, with_control)


def actor() -> "Actor":
    """Who runs this command: whoever may read the installation's secrets is its operator."""
    from tracebility.audit.events import Actor

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without an entry
        name = str(os.getuid())
    return Actor("operator", f"cli:{name}")


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


def document(content: Any) -> Any:
    """An answer of the control plane as ``--json`` prints it: what the API would answer."""
    import msgspec

    return msgspec.to_builtins(content)


async def _tell_processes(data_dir: Path | None) -> None:
    from tracebility.embedded.installation import locate
    from tracebility.stores import redis_control
    from tracebility.stores.changes import notify

    with suppress(TracebilityError):  # it is committed; a store that is away only makes them hear of it later
        control_role = await redis_control.connect(locate(data_dir).redis_url, wait_s=0)
        try:
            await notify(control_role)
        finally:
            await control_role.close()
