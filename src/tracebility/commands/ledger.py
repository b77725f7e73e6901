"""``tracebility ledger``: what became of every item that an organisation sent, and whether the numbers balance."""

import asyncio
from typing import Annotated
from uuid import UUID

import typer

from tracebility.commands.changes import document, id_of, org_of
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.stores import Stores, with_stores
from tracebility.ids import SENTINEL, OrgId
from tracebility.orgs.orgs import every_org
from tracebility.stores.ledger import Ledger, OrgQueue, RawRows
from tracebility.stores.ledger import ledger as read_ledger

# Ledgers read at a time. Each takes some ten small queries.
AT_ONCE = 8

SomeOrg = Annotated[
    UUID | None, typer.Argument(help="The org's id.", metavar="[ORG]", parser=id_of, show_default="every org")
]


app = new_app()


@app.command()
def ledger(org_id: SomeOrg = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show an organisation's ledger, in items: accepted = stored + dropped + dead + in flight.

    Without ORG: the ledger of every organisation that is not deleted, those that do not balance first.
    Exit code 1 when one does not balance, or there is no such organisation.

    Examples:

      tracebility ledger

      tracebility ledger 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --json
    """
    found = with_stores(data_dir, lambda stores: _read(stores, org_id))
    if org_id is not None:
        [(_, entry)] = found
        tell(_whole(entry), document(entry), as_json=as_json)
    else:
        items = [{"org_id": str(one), **document(entry)} for one, entry in found]
        tell(
            "\n".join(_line(*one) for one in found) or "There are no organisations.", {"items": items}, as_json=as_json
        )
    if not all(one.balanced for _, one in found):
        raise typer.Exit(1)


def _whole(entry: Ledger) -> str:
    dropped = sum(one.count for one in entry.dropped)
    reasons = ", ".join(f"{one.count} {one.reason}" for one in entry.dropped)
    lines = [
        f"accepted   {entry.accepted:>16,}",
        f"stored     {entry.stored:>16,}  ({entry.distinct:,} different ones)",
        f"dropped    {dropped:>16,}  {reasons}".rstrip(),
        f"dead       {entry.dead:>16,}",
        f"in flight  {entry.in_flight:>16,}",
        "The ledger balances." if entry.balanced else "The ledger does not balance.",
    ]
    return "\n".join(lines)


def _line(org_id: OrgId, entry: Ledger) -> str:
    dropped = sum(one.count for one in entry.dropped)
    said = "balanced" if entry.balanced else "NOT BALANCED"
    return (
        f"{org_id}  {said:<12}  accepted {entry.accepted:,}, stored {entry.stored:,}, dropped {dropped:,}, "
        f"dead {entry.dead:,}, in flight {entry.in_flight:,}"
    )


async def _read(stores: Stores, org_id: UUID | None) -> list[tuple[OrgId, Ledger]]:
    """Ledgers by org: those that do not balance first, then those with the most items."""
    control = await stores.control()
    if org_id is None:
        orgs = [one async for one in every_org(control)]
    else:  # what came without a readable org has a ledger too
        orgs = [OrgId(SENTINEL) if org_id == SENTINEL else await org_of(control, org_id)]
    queue, engine = await stores.queue(), await stores.engine()
    turns = asyncio.Semaphore(AT_ONCE)

    async def ledger_of(one: OrgId) -> Ledger:
        async with turns:
            return await read_ledger(OrgQueue(queue, one), RawRows(engine, one))

    ledgers = await asyncio.gather(*map(ledger_of, orgs))
    return sorted(zip(orgs, ledgers, strict=True), key=lambda one: (one[1].balanced, -one[1].accepted))
