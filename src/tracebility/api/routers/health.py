"""Whether this process lives, whether its stores answer, and its numbers. None of it tells about a tenant."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from tracebility.api.answers import answer
from tracebility.api.auth import Services
from tracebility.api.problems import respond
from tracebility.api.service import STORES
from tracebility.errors import Unavailable
from tracebility.telemetry import METRICS_CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> Response:
    """Answers as long as the process does, whatever its stores do."""
    return answer({"status": "ok"})


@router.get(
    "/readyz", summary="Whether the stores answer", responses={503: {"description": "The store that is missing."}}
)
async def readyz(request: Request, services: Services) -> Response:
    """Names the store that is missing."""
    missing = await services.missing_stores()
    if not missing:
        return answer({"status": "ok", "stores": dict.fromkeys(STORES, "ok")})
    words = "; ".join(f"{store}: {what}" for store, what in missing.items())
    return respond(Unavailable(f"Not ready. {words}.", missing=", ".join(missing)), request)


@router.get("/metrics", summary="Prometheus metrics of this process")
async def metrics(services: Services) -> Response:
    """In Prometheus' text format."""
    return Response(services.metrics.exposition(), media_type=METRICS_CONTENT_TYPE)
