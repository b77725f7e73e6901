"""The books of an org: what was accepted, and what became of it."""

from fastapi import APIRouter
from starlette.responses import Response

from tracebility.api.answers import answer, schema_of
from tracebility.api.auth import Services
from tracebility.api.scope import OrgRows
from tracebility.stores.ledger import Ledger, ledger

router = APIRouter(tags=["admin"])


@router.get(
    "/v1/admin/orgs/{org_id}/ledger",
    summary="The books of an org",
    responses=schema_of(Ledger, "Items, each envelope once."),
)
async def get_ledger(rows: OrgRows, services: Services) -> Response:
    """accepted = stored + dropped + dead + in_flight. `distinct` is how many different items the store holds."""
    return answer(await ledger(services.queue, rows, rows.scope.org_id))
