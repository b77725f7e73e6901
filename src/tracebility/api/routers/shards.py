"""Shards: how evenly orgs lie on them, and moves, for operators."""

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


@router.get("/v1/admin/shards", summary="Every shard", responses=answers(ShardStatus, "Shards and who is on them."))
async def get_shards(shards: Shards, services: Services) -> Response:
    """What is queued, what came in the last hours, of whom, and which orgs are not where their hash puts them."""
    return answer(await look(services.control, shards, services.now()))


@router.post(
    "/v1/admin/shards/plan",
    summary="What would make the shards more even",
    responses=answers(ShardPlan, "Moves, and the skew without and with them."),
)
async def plan_shards(shards: Shards, services: Services) -> Response:
    """Changes nothing. `held` are orgs that were moved in the last 15 minutes."""
    return answer(await plan(services.control, shards, services.now()))


@router.post(
    "/v1/admin/shards/moves",
    summary="Move an org to other shards, or spread it over several",
    responses=answers(ShardMoved, "Where it was and is now."),
    openapi_extra=takes(ShardMove),
)
async def move_org(request: Request, holder: Operator, shards: Shards, services: Services) -> Response:
    """One shard moves it, several split it. With `dry_run` nothing is changed, and the answer has the skew."""
    wanted = await body_of(request, ShardMove)
    async with services.changing() as transaction:
        moved = await move(transaction, holder.actor, wanted, services.now())
    if wanted.dry_run:
        moved = await foreseen(services.control, shards, moved, services.now())
    return answer(moved)
