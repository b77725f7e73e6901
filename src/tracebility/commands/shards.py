"""``tracebility shards``: how evenly organisations lie on the shards of the queue, and moves."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from tracebility.audit.events import Actor
from tracebility.commands.changes import OrgArgument, changing, document, id_of, now
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.stores import Stores, with_stores
from tracebility.errors import MovedLately, NotFound, TracebilityError
from tracebility.ids import OrgId
from tracebility.shards.shard_map import (
    ShardMove,
    ShardMoved,
    ShardSplit,
    ShardTarget,
    coolest_for,
    foreseen,
    look,
    move,
    plan,
    undo,
)
from tracebility.stores.postgres import Postgres, Transaction
from tracebility.stores.queue import Queue
from tracebility.validation import checked

T = TypeVar("T")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what it would do to the skew, and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Also when it was moved in the last 15 minutes.")]
Reason = Annotated[str, typer.Option("--reason", help="For the audit log.", show_default=False)]

app = new_app()


@app.command("status")
def show_status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show each shard: entries in the queue, items of the last hours, and the org with the most of them.

    Examples:

      tracebility shards status

      tracebility shards status --json
    """
    status = _looking(data_dir, lambda control, queue: look(control, queue, now()))
    lines = [f"hottest shard {status.skew:.2f} times the mean, over {status.hours} hours; map epoch {status.epoch}"]
    lines.append("shard      entries   pending   oldest s          items  largest")
    for shard in status.shards:
        largest = f"{shard.orgs[0].org_id} {shard.orgs[0].items:,}" if shard.orgs else ""
        lines.append(
            f"{shard.shard:>5} {shard.entries:>12,} {shard.pending:>9,} {shard.oldest_s or 0:>10.1f} "
            f"{shard.items:>14,}  {largest}".rstrip()
        )
    lines += [f"{one.org_id} is {one.state}: {_shards(one.shards)}, by {one.moved_by}" for one in status.placed]
    tell("\n".join(lines), document(status), as_json=as_json)


@app.command("plan")
def show_plan(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Propose moves and splits that make the shards more even. Nothing is changed.

    Examples:

      tracebility shards plan

      tracebility shards plan --json
    """
    proposed = _looking(data_dir, lambda control, queue: plan(control, queue, now()))
    lines = [f"hottest shard {proposed.skew_before:.2f} -> {proposed.skew_after:.2f} times the mean"]
    lines += [
        f"  {move.org_id}  {_shards(move.before)} -> {_shards(move.after)}  {move.items:,} items"
        for move in proposed.moves
    ]
    lines += [f"  {org_id} was moved a moment ago and stays" for org_id in proposed.held]
    lines += [] if proposed.moves else ["Nothing to move."]
    tell("\n".join(lines), document(proposed), as_json=as_json)


@app.command("move")
def move_org(
    org_id: OrgArgument,
    shard: Annotated[int, typer.Argument(help="The shard, 0 to 15.")],
    dry_run: DryRun = False,
    force: Force = False,
    reason: Reason = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put an organisation's envelopes into one shard. Those that are queued already drain from where they are.

    Examples:

      tracebility shards move 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 7 --dry-run

      tracebility shards move 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 7 --reason "noisy neighbour"
    """
    to = [checked(ShardTarget, {"shard": shard}).shard]
    _tell_moved(_moved(data_dir, org_id, to, dry_run=dry_run, force=force, reason=reason), as_json=as_json)


@app.command("split")
def split_org(
    org_id: OrgArgument,
    n: Annotated[int, typer.Argument(help="Over how many shards, 2 to 16: those with the least load.", metavar="N")],
    dry_run: DryRun = False,
    force: Force = False,
    reason: Reason = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Spread an organisation over several shards, those with the least load.

    Examples:

      tracebility shards split 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 4 --dry-run

      tracebility shards split 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 4
    """
    pieces = checked(ShardSplit, {"n": n}).n
    to = _looking(data_dir, lambda control, queue: coolest_for(control, queue, OrgId(org_id), pieces, now()))
    _tell_moved(_moved(data_dir, org_id, to, dry_run=dry_run, force=force, reason=reason), as_json=as_json)


@app.command("undo")
def undo_move(
    org_id: Annotated[
        UUID | None,
        typer.Option("--org", help="Its id; else the org that was moved last.", parser=id_of, show_default=False),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Undo an organisation's last move; run it again to undo the move before.

    Examples:

      tracebility shards undo

      tracebility shards undo --org 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """

    async def change(transaction: Transaction, actor: Actor) -> ShardMoved:
        return await undo(transaction, actor, None if org_id is None else OrgId(org_id), now())

    _tell_moved(_known(org_id, lambda: changing(data_dir, change)), as_json=as_json)


def _moved(
    data_dir: Path | None, org_id: UUID, to: list[int], *, dry_run: bool, force: bool, reason: str
) -> ShardMoved:
    async def change(transaction: Transaction, actor: Actor) -> ShardMoved:
        named = {"org_id": str(org_id), "shards": to, "dry_run": dry_run, "force": force, "reason": reason}
        return await move(transaction, actor, checked(ShardMove, named), now())

    async def foresee(control: Postgres, queue: Queue) -> ShardMoved:
        return await foreseen(control, queue, moved, now())

    moved = _known(org_id, lambda: changing(data_dir, change))
    return _looking(data_dir, foresee) if dry_run else moved


def _known(org_id: UUID | None, change: Callable[[], ShardMoved]) -> ShardMoved:
    try:
        return change()
    except MovedLately as refused:
        raise TracebilityError(f"{refused.detail} --force changes them now.") from None
    except NotFound:
        raise TracebilityError(
            f"There is no organisation {org_id}. 'tracebility orgs list' shows those there are."
        ) from None


def _tell_moved(moved: ShardMoved, *, as_json: bool) -> None:
    did = "would move" if moved.dry_run else "moved" if moved.epoch is not None else "is there already:"
    text = f"{moved.org_id} {did} {_shards(moved.before)} -> {_shards(moved.after)}"
    if moved.skew_before is not None:
        text += f"\nhottest shard {moved.skew_before:.2f} -> {moved.skew_after:.2f} times the mean"
    tell(text, document(moved), as_json=as_json)


def _shards(shards: list[int]) -> str:
    return f"shard {shards[0]}" if len(shards) == 1 else f"shards {', '.join(map(str, shards))}"


def _looking(data_dir: Path | None, look: Callable[[Postgres, Queue], Awaitable[T]]) -> T:
    """What ``look`` returns for the control plane and the queue."""

    async def act(stores: Stores) -> T:
        return await look(await stores.control(), await stores.queue())

    return with_stores(data_dir, act)
