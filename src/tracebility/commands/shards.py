"""``tracebility shards``: how evenly organisations lie on the shards of the queue, and moves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer

from tracebility.commands.changes import OrgArgument, changing, document, now
from tracebility.commands.options import AsJson, DataDir, tell
from tracebility.errors import NotFound, TracebilityError

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.audit.events import Actor
    from tracebility.shards.shard_map import ShardMoved, ShardPlan, ShardStatus
    from tracebility.stores.postgres import Postgres, Transaction
    from tracebility.stores.redis import Queue

T = TypeVar("T")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what it would do to the skew, and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Also when it was moved in the last 15 minutes.")]
Reason = Annotated[str, typer.Option("--reason", help="For the trail.", show_default=False)]

group = typer.Typer(no_args_is_help=True, help="Show how even the shards are; move or split organisations.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="shards")


@group.command("status")
def show_status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show each shard: what is queued, what came in the last hours, and of whom most of it is.

    Examples:

      tracebility shards status

      tracebility shards status --json
    """

    async def read(control: "Postgres", queue: "Queue") -> "ShardStatus":
        from tracebility.shards.shard_map import look

        return await look(control, queue, now())

    status = _looking(data_dir, read)
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


@group.command("plan")
def show_plan(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Propose moves and splits that make the shards more even. Nothing is changed.

    Examples:

      tracebility shards plan

      tracebility shards plan --json
    """

    async def read(control: "Postgres", queue: "Queue") -> "ShardPlan":
        from tracebility.shards.shard_map import plan

        return await plan(control, queue, now())

    plan = _looking(data_dir, read)
    lines = [f"hottest shard {plan.skew_before:.2f} -> {plan.skew_after:.2f} times the mean"]
    lines += [
        f"  {move.org_id}  {_shards(move.before)} -> {_shards(move.after)}  {move.items:,} items" for move in plan.moves
    ]
    lines += [f"  {org_id} was moved a moment ago and stays" for org_id in plan.held]
    lines += [] if plan.moves else ["Nothing to move."]
    tell("\n".join(lines), document(plan), as_json=as_json)


@group.command("move")
def move_org(
    org_id: OrgArgument,
    shard: Annotated[int, typer.Argument(help="The shard, 0 to 15.")],
    dry_run: DryRun = False,
    force: Force = False,
    reason: Reason = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have an organisation's envelopes queue in one shard. What is queued already drains from where it is.

    Examples:

      tracebility shards move 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 7 --dry-run

      tracebility shards move 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a 7 --reason "noisy neighbour"
    """
    from tracebility.shards.shard_map import ShardTarget
    from tracebility.validation import checked

    to = [checked(ShardTarget, {"shard": shard}).shard]
    _tell_moved(_moved(data_dir, org_id, to, dry_run=dry_run, force=force, reason=reason), as_json=as_json)


@group.command("split")
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
    from tracebility.ids import OrgId
    from tracebility.shards.shard_map import ShardSplit, coolest_for
    from tracebility.validation import checked

    pieces = checked(ShardSplit, {"n": n}).n
    to = _looking(data_dir, lambda control, queue: coolest_for(control, queue, OrgId(org_id), pieces, now()))
    _tell_moved(_moved(data_dir, org_id, to, dry_run=dry_run, force=force, reason=reason), as_json=as_json)


@group.command("undo")
def undo_move(
    org: Annotated[
        str | None, typer.Option("--org", help="Its id; without it, the one that was moved last.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put an organisation back to where it was before its last move; once more, to before the one before.

    Examples:

      tracebility shards undo

      tracebility shards undo --org 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a
    """
    org_id = None if org is None else _id(org)

    async def change(transaction: "Transaction", actor: "Actor") -> "ShardMoved":
        from tracebility.ids import OrgId
        from tracebility.shards.shard_map import undo

        return await undo(transaction, actor, None if org_id is None else OrgId(org_id), now())

    _tell_moved(_known(org_id, lambda: changing(data_dir, change)), as_json=as_json)


def _moved(
    data_dir: "Path | None", org_id: UUID, to: list[int], *, dry_run: bool, force: bool, reason: str
) -> "ShardMoved":
    async def change(transaction: "Transaction", actor: "Actor") -> "ShardMoved":
        from tracebility.shards.shard_map import ShardMove, move
        from tracebility.validation import checked

        named = {"org_id": str(org_id), "shards": to, "dry_run": dry_run, "force": force, "reason": reason}
        return await move(transaction, actor, checked(ShardMove, named), now())

    async def foresee(control: "Postgres", queue: "Queue") -> "ShardMoved":
        from tracebility.shards.shard_map import foreseen

        return await foreseen(control, queue, moved, now())

    moved = _known(org_id, lambda: changing(data_dir, change))
    return _looking(data_dir, foresee) if dry_run else moved


def _known(org_id: UUID | None, change: Callable[[], "ShardMoved"]) -> "ShardMoved":
    try:
        return change()
    except NotFound:
        raise TracebilityError(
            f"There is no organisation {org_id}. 'tracebility orgs list' shows those there are."
        ) from None


def _tell_moved(moved: "ShardMoved", *, as_json: bool) -> None:
    did = "would move" if moved.dry_run else "moved" if moved.epoch is not None else "is there already:"
    text = f"{moved.org_id} {did} {_shards(moved.before)} -> {_shards(moved.after)}"
    if moved.skew_before is not None:
        text += f"\nhottest shard {moved.skew_before:.2f} -> {moved.skew_after:.2f} times the mean"
    tell(text, document(moved), as_json=as_json)


def _shards(shards: list[int]) -> str:
    return f"shard {shards[0]}" if len(shards) == 1 else f"shards {', '.join(map(str, shards))}"


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise TracebilityError(
            f"--org takes an id such as 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a, not {text!r}."
        ) from None


def _looking(data_dir: "Path | None", look: "Callable[[Postgres, Queue], Awaitable[T]]") -> T:
    """What ``look`` makes of the map and the books of the installation that is meant."""

    async def run() -> T:
        from contextlib import AsyncExitStack

        from tracebility.embedded.installation import locate
        from tracebility.stores import postgres, redis

        found = locate(data_dir)
        async with AsyncExitStack() as stack:
            control = await postgres.connect(found.pg_dsn, wait_s=0)
            stack.push_async_callback(control.close)
            queue = await redis.connect(found.queue_url, variable=found.queue_variable, wait_s=0)
            stack.push_async_callback(queue.close)
            return await look(control, queue)

    return asyncio.run(run())
