"""``tracebility ledger``: the books of an organisation, and whether they balance."""

import asyncio
from typing import TYPE_CHECKING

import typer

from tracebility.commands.changes import OrgArgument, document
from tracebility.commands.options import AsJson, DataDir, tell

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.ids import OrgId
    from tracebility.stores.ledger import Ledger


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ledger)


def ledger(org_id: OrgArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show an organisation's books, in items: accepted = stored + dropped + dead + in flight.

    Exits with 1 when they do not balance.

    Examples:

      tracebility ledger 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a

      tracebility ledger 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --json
    """
    from tracebility.ids import OrgId

    found = asyncio.run(_read(data_dir, OrgId(org_id)))
    dropped = sum(one.count for one in found.dropped)
    reasons = ", ".join(f"{one.count} {one.reason}" for one in found.dropped)
    lines = [
        f"accepted   {found.accepted:>16,}",
        f"stored     {found.stored:>16,}  ({found.distinct:,} different ones)",
        f"dropped    {dropped:>16,}  {reasons}".rstrip(),
        f"dead       {found.dead:>16,}",
        f"in flight  {found.in_flight:>16,}",
        "The books balance." if found.balanced else "The books do not balance.",
    ]
    tell("\n".join(lines), document(found), as_json=as_json)
    if not found.balanced:
        raise typer.Exit(1)


async def _read(data_dir: "Path | None", org_id: "OrgId") -> "Ledger":
    from contextlib import AsyncExitStack

    from tracebility.embedded.installation import locate
    from tracebility.stores import clickhouse, redis
    from tracebility.stores.ledger import OrgQueue, RawRows
    from tracebility.stores.ledger import ledger as read

    found = locate(data_dir)
    async with AsyncExitStack() as stack:
        queue = await redis.connect(found.redis_url, wait_s=0)
        stack.push_async_callback(queue.close)
        engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
        stack.push_async_callback(engine.close)
        return await read(OrgQueue(queue, org_id), RawRows(engine, org_id))
