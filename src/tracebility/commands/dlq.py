"""``tracebility dlq``: the envelopes that could not be stored, for an operator to look at, put back, or give up."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from tracebility.audit.events import AuditWriter, Event, EventType
from tracebility.commands.changes import Yes, actor, confirm, id_of, org_of
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.stores import Stores, with_stores
from tracebility.errors import TracebilityError
from tracebility.ids import OrgId
from tracebility.stores.postgres import Postgres
from tracebility.stores.queue import Queue
from tracebility.tenant.resends import invalidate_marks
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM
from tracebility.worker import dead_letters
from tracebility.worker.dead_letters import DeadLetter, all_dead_letters, find

# `dlq show` prints this much of a body: enough to see what it is.
SHOWN_BYTES = 512
# The most letters that one audit event names.
LETTERS_NAMED = 100

T = TypeVar("T")
LetterId = Annotated[str, typer.Argument(help="The dead letter's id, from 'tracebility dlq list'.", metavar="ID")]
OptionalLetterId = Annotated[str | None, typer.Argument(help="The dead letter's id.", metavar="ID", show_default=False)]

app = new_app()


@app.command("list")
def list_letters(
    org: Annotated[
        UUID | None, typer.Option("--org", help="Only those of this org.", parser=id_of, show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many, oldest first.")] = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first: when, what, and why.

    Examples:

      tracebility dlq list

      tracebility dlq list --org 0192f0c1-... --json
    """

    async def collect(stores: Stores) -> list[DeadLetter]:
        queue = await stores.queue()
        if org is not None:
            await org_of(await stores.control(), org)

        found: list[DeadLetter] = []
        async for letter in all_dead_letters(queue):
            if org is None or (letter.header is not None and letter.header.org_id == org):
                found.append(letter)
            if len(found) == limit:
                break
        return found

    found = with_stores(data_dir, collect)
    lines = [f"{letter.id}  {_when(letter.at_us)}  {_what(letter)}  {letter.reason}" for letter in found]
    text = "\n".join(lines) if lines else "There are no dead letters."
    tell(text, {"items": [letter.document() for letter in found]}, as_json=as_json)


@app.command("show")
def show_letter(letter_id: LetterId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one dead letter with the beginning of its body.

    Examples:

      tracebility dlq show 1795530152396-0
    """

    async def find_letter(stores: Stores) -> DeadLetter:
        return await _found(await stores.queue(), letter_id)

    letter = with_stores(data_dir, find_letter)
    body = letter.entry.fields.get(b"b", b"")[:SHOWN_BYTES]
    document = letter.document() | {"body_start": body.decode("utf-8", "backslashreplace")}
    tell(json.dumps(document, indent=2), document, as_json=as_json)


@app.command("replay")
def replay_letters(
    letter_id: OptionalLetterId = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back into their streams, as after an upgrade that can read them. Nothing is stored twice.

    Examples:

      tracebility dlq replay 1795530152396-0

      tracebility dlq replay --all
    """

    async def replay(queue: Queue, letter: DeadLetter) -> dict[str, Any]:
        return {"id": letter.id, "stream": letter.stream, "entry_id": await dead_letters.replay(queue, letter)}

    done = _each(data_dir, letter_id, everything, "dead_letters.replayed", replay)
    tell(f"{len(done)} put back into the queue.", {"replayed": done}, as_json=as_json)


@app.command("drop")
def drop_letters(
    letter_id: OptionalLetterId = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good: what they hold was accepted from a client, and is then lost.

    With --all it shows how many there are and asks; --yes does not ask.

    Examples:

      tracebility dlq drop 1795530152396-0

      tracebility dlq drop --all --yes
    """
    if everything and letter_id is None and not yes:
        letters, items = with_stores(data_dir, _counted)
        confirm(f"Delete {letters:,} dead letters with {items:,} items for good?", yes=yes)

    async def invalidate(stores: Stores, orgs: list[UUID]) -> None:
        """Have the bodies that these letters came in count as new: sent again, they must be stored."""
        await invalidate_marks(await stores.redis_control(), orgs)

    async def drop(queue: Queue, letter: DeadLetter) -> dict[str, Any]:
        await dead_letters.drop(queue, letter)
        return {"id": letter.id}

    done = _each(data_dir, letter_id, everything, "dead_letters.dropped", drop, invalidate)
    tell(f"{len(done)} deleted.", {"dropped": done}, as_json=as_json)


def _each(
    data_dir: Path | None,
    letter_id: str | None,
    everything: bool,
    event_type: str,
    act: Callable[[Queue, DeadLetter], Awaitable[dict[str, Any]]],
    prepare: Callable[[Stores, list[UUID]], Awaitable[None]] | None = None,
) -> list[dict[str, Any]]:
    if (letter_id is None) != everything:
        raise TracebilityError("Name one dead letter by its id, or all of them with --all.")

    async def each(stores: Stores) -> list[dict[str, Any]]:
        queue = await stores.queue()

        meant: _Meant = {}
        if letter_id is not None:
            _mean(meant, await _found(queue, letter_id))
        else:
            async for letter in all_dead_letters(queue):
                _mean(meant, letter)
        await _write_down(await stores.control(), event_type, meant)
        if prepare is not None:
            await prepare(stores, [org_id for org_id in meant if org_id is not None])
        # Those there now, by their ids: what fails again comes back behind them, and bodies are fetched one at a time.
        return [await act(queue, await _found(queue, one)) for ids in meant.values() for one in ids]

    return with_stores(data_dir, each)


# The ids of letters by their org, None where it cannot be read, and the items in each.
_Meant = dict[UUID | None, dict[str, int]]


def _mean(meant: _Meant, letter: DeadLetter) -> None:
    header = letter.header
    of_org = meant.setdefault(None if header is None else header.org_id, {})
    of_org[letter.id] = 0 if header is None else header.items


async def _write_down(control: Postgres, event_type: str, meant: _Meant) -> None:
    """Record what is about to be done in the audit log of each org concerned."""
    async with control.transaction() as transaction:
        for org_id, ids in meant.items():
            known = org_id is not None and await transaction.fetchrow("named_org", org_id, None) is not None
            details = {"count": len(ids), "items": sum(ids.values()), "letters": [*ids][:LETTERS_NAMED]}
            owner = OrgId(org_id) if org_id is not None and known else None
            event = Event(EventType(event_type), owner, actor(), "stream", DEAD_LETTER_STREAM, details)
            await AuditWriter().record(transaction, event)


async def _counted(stores: Stores) -> tuple[int, int]:
    """How many dead letters there are, and the items in those that can be read."""
    found = [letter.header async for letter in all_dead_letters(await stores.queue())]
    return len(found), sum(header.items for header in found if header is not None)


async def _found(queue: Queue, letter_id: str) -> DeadLetter:

    letter = await find(queue, letter_id)
    if letter is None:
        raise TracebilityError(f"There is no dead letter {letter_id}. 'tracebility dlq list' shows those there are.")
    return letter


def _when(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _what(letter: DeadLetter) -> str:
    if letter.header is None:
        return "unreadable"
    return f"{letter.header.items} items of org {letter.header.org_id}"
