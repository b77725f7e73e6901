"""The ledger of an org: how many items were accepted, and what became of them."""

from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.schemas import answers
from tracebility.api.scope import OrgBooks, OrgRows
from tracebility.stores.ledger import Ledger, ledger

router = routing.router("admin")


@router.get(
    "/v1/admin/orgs/{org_id}/ledger",
    summary="The ledger of an org",
    responses=answers(Ledger, "Items, each envelope once."),
)
async def get_ledger(queue: OrgBooks, rows: OrgRows) -> Response:
    """accepted = stored + dropped + dead + in_flight. `distinct` is how many different items were stored."""
    return answer(await ledger(queue, rows))
