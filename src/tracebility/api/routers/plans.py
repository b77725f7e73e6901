"""Plans: the rates, quotas and retention that orgs are given."""

from fastapi import Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Operator, Services
from tracebility.api.bodies import body_of
from tracebility.api.schemas import answers, takes
from tracebility.orgs.plans import Plan, PlanPage, every_plan, put_plan
from tracebility.tenant.limits import Limits

router = routing.router("admin")


@router.get("/v1/admin/plans", summary="Every plan", responses=answers(PlanPage, "Every plan, by name."))
async def list_plans(holder: Operator, services: Services) -> Response:
    """Each plan as it is put, and its name."""
    return answer(await every_plan(services.control))


@router.put(
    "/v1/admin/plans/{name}",
    summary="Make or replace a plan",
    responses=answers(Plan, "The plan."),
    openapi_extra=takes(Limits),
)
async def replace_plan(name: str, request: Request, holder: Operator, services: Services) -> Response:
    """Replaces the whole plan. An absent or null limit is unlimited; `hard: 0` refuses everything."""
    limits = await body_of(request, Limits)
    async with services.changing() as transaction:
        plan = await put_plan(transaction, holder.actor, name, limits)
    return answer(plan)
