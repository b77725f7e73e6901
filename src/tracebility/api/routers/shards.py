"""Shards: their load, plans that balance it, and moves of orgs. For operators."""

from fastapi import Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Operator, Services
from tracebility.api.bodies import body_of
from tracebility.api.schemas import answers, takes
from tracebility.api.scope import Shards
from tracebility.shards.shard_map import ShardMove, ShardMoved, ShardPlan, ShardStatus, foreseen, look, move, plan

router = routing.router("admin")


@router.get(
    "/v1/admin/shards", summary="Every shard", responses=answers(ShardStatus, "The shards and their largest orgs.")
)
async def get_shards(shards: Shards, services: Services) -> Response:
    """Queue depth, recent load and largest orgs of each shard, and the orgs that are not on their hash's shard."""
    return answer(await look(services.control, shards, services.now()))


@router.post(
    "/v1/admin/shards/plan",
    summary="Plan moves that balance the shards",
    responses=answers(ShardPlan, "The moves, and the skew before and after them."),
)
async def plan_shards(shards: Shards, services: Services) -> Response:
    """Changes nothing. `held` lists orgs that were moved less than 15 minutes ago and stay."""
    return answer(await plan(services.control, shards, services.now()))


@router.post(
    "/v1/admin/shards/moves",
    summary="Move an org to other shards, or spread it over several",
    responses=answers(ShardMoved, "The shards before and after."),
    openapi_extra=takes(ShardMove),
)
async def move_org(request: Request, holder: Operator, shards: Shards, services: Services) -> Response:
    """One shard moves the org, several split it. `dry_run` changes nothing and answers the expected skew."""
    wanted = await body_of(request, ShardMove)
    async with services.changing() as transaction:
        moved = await move(transaction, holder.actor, wanted, services.now())
    if wanted.dry_run:
        moved = await foreseen(services.control, shards, moved, services.now())
    return answer(moved)
