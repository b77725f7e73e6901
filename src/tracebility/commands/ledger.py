"""``tracebility ledger``: the books of an organisation, or of all, and whether they balance."""

import asyncio
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from tracebility.commands.changes import document, id_of
from tracebility.commands.options import AsJson, DataDir, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.ids import OrgId
    from tracebility.stores.ledger import Ledger

# Books are read so many at a time: each takes some ten small questions.
AT_ONCE = 8

SomeOrg = Annotated[
    UUID | None, typer.Argument(help="The org's id.", metavar="[ORG]", parser=id_of, show_default="every org")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ledger)


def ledger(org_id: SomeOrg = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show an organisation's books, in items: accepted = stored + dropped + dead + in flight.

    Without an organisation, those of all that are not deleted, first the ones that do not balance.
    Exits with 1 when any do not.

    Examples:

      tracebility ledger

      tracebility ledger 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --json
    """
    from tracebility.ids import OrgId

    found = asyncio.run(_read(data_dir, None if org_id is None else OrgId(org_id)))
    if org_id is not None:
        [(_, books)] = found
        tell(_whole(books), document(books), as_json=as_json)
    else:
        items = [{"org_id": str(one), **document(books)} for one, books in found]
        tell(
            "\n".join(_line(*one) for one in found) or "There are no organisations.", {"items": items}, as_json=as_json
        )
    if not all(books.balanced for _, books in found):
        raise typer.Exit(1)


def _whole(books: "Ledger") -> str:
    dropped = sum(one.count for one in books.dropped)
    reasons = ", ".join(f"{one.count} {one.reason}" for one in books.dropped)
    lines = [
        f"accepted   {books.accepted:>16,}",
        f"stored     {books.stored:>16,}  ({books.distinct:,} different ones)",
        f"dropped    {dropped:>16,}  {reasons}".rstrip(),
        f"dead       {books.dead:>16,}",
        f"in flight  {books.in_flight:>16,}",
        "The books balance." if books.balanced else "The books do not balance.",
    ]
    return "\n".join(lines)


def _line(org_id: "OrgId", books: "Ledger") -> str:
    dropped = sum(one.count for one in books.dropped)
    said = "balanced" if books.balanced else "NOT BALANCED"
    return (
        f"{org_id}  {said:<12}  accepted {books.accepted:,}, stored {books.stored:,}, dropped {dropped:,}, "
        f"dead {books.dead:,}, in flight {books.in_flight:,}"
    )


async def _read(data_dir: "Path | None", org_id: "OrgId | None") -> "list[tuple[OrgId, Ledger]]":
    """Books by org: what does not balance first, then those with the most."""
    from contextlib import AsyncExitStack

    from tracebility.embedded.installation import locate
    from tracebility.stores import clickhouse, redis
    from tracebility.stores.ledger import OrgQueue, RawRows
    from tracebility.stores.ledger import ledger as read

    found = locate(data_dir)
    orgs = await _orgs(found.pg_dsn) if org_id is None else [org_id]
    turns = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:
        queue = await redis.connect(found.queue_url, variable=found.queue_variable, wait_s=0)
        stack.push_async_callback(queue.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)

        async def books_of(one: "OrgId") -> "Ledger":
            async with turns:
                return await read(OrgQueue(queue, one), RawRows(engine, one))

        books = await asyncio.gather(*map(books_of, orgs))
    return sorted(zip(orgs, books, strict=True), key=lambda one: (one[1].balanced, -one[1].accepted))


async def _orgs(pg_dsn: str) -> "list[OrgId]":
    """Every org but those that are deleted, whose books are closed."""
    from tracebility.orgs.orgs import every_org
    from tracebility.stores import postgres

    control = await postgres.connect(pg_dsn, wait_s=0)
    try:
        return [org async for org in every_org(control)]
    finally:
        await control.close()
