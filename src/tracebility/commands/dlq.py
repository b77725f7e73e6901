"""``tracebility dlq``: the envelopes that could not be stored, for an operator to look at, put back, or give up."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from tracebility.commands.options import AsJson, DataDir, tell
from tracebility.errors import TracebilityError

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.stores.queue import Queue
    from tracebility.worker.dead_letters import DeadLetter

# Of a body, shown by `dlq show`: enough to see what it is.
SHOWN_BYTES = 512
# Of letters, named by an event of the trail.
LETTERS_NAMED = 100

T = TypeVar("T")
LetterId = Annotated[str, typer.Argument(help="The dead letter's id, from 'tracebility dlq list'.", metavar="ID")]
OptionalLetterId = Annotated[str | None, typer.Argument(help="The dead letter's id.", metavar="ID", show_default=False)]

group = typer.Typer(no_args_is_help=True, help="List, show, replay or drop envelopes that could not be stored.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="dlq")


@group.command("list")
def list_letters(
    org: Annotated[str | None, typer.Option("--org", help="Only those of this org.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, oldest first.")] = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first: when, what, and why.

    Examples:

      tracebility dlq list

      tracebility dlq list --org 0192f0c1-... --json
    """

    async def collect(queue: "Queue") -> "list[DeadLetter]":
        from tracebility.worker.dead_letters import letters

        found: list[DeadLetter] = []
        async for letter in letters(queue):
            if org is None or (letter.header is not None and str(letter.header.org_id) == org):
                found.append(letter)
            if len(found) == limit:
                break
        return found

    found = _with_queue(data_dir, collect)
    lines = [f"{letter.id}  {_when(letter.at_us)}  {_what(letter)}  {letter.reason}" for letter in found]
    text = "\n".join(lines) if lines else "There are no dead letters."
    tell(text, {"items": [letter.document() for letter in found]}, as_json=as_json)


@group.command("show")
def show_letter(letter_id: LetterId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one dead letter with the beginning of its body.

    Examples:

      tracebility dlq show 1795530152396-0
    """

    async def find(queue: "Queue") -> "DeadLetter":
        return await _found(queue, letter_id)

    letter = _with_queue(data_dir, find)
    body = letter.entry.fields.get(b"b", b"")[:SHOWN_BYTES]
    document = letter.document() | {"body_start": body.decode("utf-8", "backslashreplace")}
    tell(json.dumps(document, indent=2), document, as_json=as_json)


@group.command("replay")
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

    async def replay(queue: "Queue", letter: "DeadLetter") -> dict[str, Any]:
        from tracebility.worker import dead_letters

        return {"id": letter.id, "stream": letter.stream, "entry_id": await dead_letters.replay(queue, letter)}

    done = _each(data_dir, letter_id, everything, "dead_letters.replayed", replay)
    tell(f"{len(done)} put back into the queue.", {"replayed": done}, as_json=as_json)


@group.command("drop")
def drop_letters(
    letter_id: OptionalLetterId = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good: what they hold was accepted from a client, and is then lost.

    Examples:

      tracebility dlq drop 1795530152396-0
    """

    async def invalidate(orgs: "list[UUID]") -> None:
        """Have the bodies that these letters came in count as new: sent again, they must be stored."""
        from tracebility.embedded.installation import locate
        from tracebility.stores import redis_control
        from tracebility.tenant.resends import invalidate_marks

        control_role = await redis_control.connect(locate(data_dir).redis_url, wait_s=0)
        try:
            await invalidate_marks(control_role, orgs)
        finally:
            await control_role.close()

    async def drop(queue: "Queue", letter: "DeadLetter") -> dict[str, Any]:
        from tracebility.worker import dead_letters

        await dead_letters.drop(queue, letter)
        return {"id": letter.id}

    done = _each(data_dir, letter_id, everything, "dead_letters.dropped", drop, invalidate)
    tell(f"{len(done)} deleted.", {"dropped": done}, as_json=as_json)


def _each(
    data_dir: "Path | None",
    letter_id: str | None,
    everything: bool,
    event_type: str,
    act: "Callable[[Queue, DeadLetter], Awaitable[dict[str, Any]]]",
    prepare: "Callable[[list[UUID]], Awaitable[None]] | None" = None,
) -> list[dict[str, Any]]:
    if (letter_id is None) != everything:
        raise TracebilityError("Name one dead letter by its id, or all of them with --all.")

    async def each(queue: "Queue") -> list[dict[str, Any]]:
        from tracebility.worker.dead_letters import letters

        meant: _Meant = {}
        if letter_id is not None:
            _mean(meant, await _found(queue, letter_id))
        else:
            async for letter in letters(queue):
                _mean(meant, letter)
        await _write_down(data_dir, event_type, meant)
        if prepare is not None:
            await prepare([org_id for org_id in meant if org_id is not None])
        # Those there now, by their ids: what fails again comes back behind them, and bodies are fetched one at a time.
        return [await act(queue, await _found(queue, one)) for ids in meant.values() for one in ids]

    return _with_queue(data_dir, each)


# The ids of letters by their org, None where it cannot be read, and the items in each.
_Meant = dict[UUID | None, dict[str, int]]


def _mean(meant: _Meant, letter: "DeadLetter") -> None:
    header = letter.header
    of_org = meant.setdefault(None if header is None else header.org_id, {})
    of_org[letter.id] = 0 if header is None else header.items


async def _write_down(data_dir: "Path | None", event_type: str, meant: _Meant) -> None:
    """What is about to be done is in the trail of whom it concerns first."""
    from tracebility.audit.events import AuditWriter, Event, EventType
    from tracebility.commands.changes import actor
    from tracebility.embedded.installation import locate
    from tracebility.ids import OrgId
    from tracebility.stores import postgres
    from tracebility.tenant.shard_router import DEAD_LETTER_STREAM

    control = await postgres.connect(locate(data_dir).pg_dsn, wait_s=0)
    try:
        async with control.transaction() as transaction:
            for org_id, ids in meant.items():
                known = org_id is not None and await transaction.fetchrow("named_org", org_id, None) is not None
                details = {"count": len(ids), "items": sum(ids.values()), "letters": [*ids][:LETTERS_NAMED]}
                whose = OrgId(org_id) if org_id is not None and known else None
                event = Event(EventType(event_type), whose, actor(), "stream", DEAD_LETTER_STREAM, details)
                await AuditWriter().record(transaction, event)
    finally:
        await control.close()


async def _found(queue: "Queue", letter_id: str) -> "DeadLetter":
    from tracebility.worker.dead_letters import find

    letter = await find(queue, letter_id)
    if letter is None:
        raise TracebilityError(f"There is no dead letter {letter_id}. 'tracebility dlq list' shows those there are.")
    return letter


def _with_queue(data_dir: "Path | None", act: "Callable[[Queue], Awaitable[T]]") -> T:
    from tracebility.embedded.installation import locate
    from tracebility.stores.queue import connect_queue

    async def run() -> T:
        found = locate(data_dir)
        queue = await connect_queue(found.queue_url, variable=found.queue_variable, wait_s=0)
        try:
            return await act(queue)
        finally:
            await queue.close()

    return asyncio.run(run())


def _when(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _what(letter: "DeadLetter") -> str:
    if letter.header is None:
        return "unreadable"
    return f"{letter.header.items} items of org {letter.header.org_id}"
