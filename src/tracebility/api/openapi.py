"""The description of every HTTP route of an installation, the ingest routes included, as OpenAPI 3.1."""

from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from tracebility import __version__, health
from tracebility.api import schemas
from tracebility.wire.protocols import OPENAPI_PATHS, OPENAPI_SCHEMAS


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The description of ``routes``, of the ingest routes, and of the health routes."""
    described: dict[str, Any] = get_openapi(
        title="tracebility", version=__version__, routes=routes, openapi_version="3.1.0"
    )
    components = described.setdefault("components", {})
    components["schemas"] = schemas.components() | OPENAPI_SCHEMAS
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, tb_..."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    components["responses"] = {"Problem": _PROBLEM}
    described["paths"] = {
        path: {method: _operation(path, operation) for method, operation in operations.items()}
        for path, operations in (OPENAPI_PATHS | described["paths"] | health.DESCRIPTION).items()
    }
    return described


def _operation(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """``operation`` with what every route has: the form of a refusal, and under ``/v1/`` the need of a key."""
    responses = {status: response for status, response in operation["responses"].items() if status != "422"}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    needed: dict[str, Any] = {"security": [{"bearer": []}, {"apiKey": []}]} if path.startswith("/v1/") else {}
    return operation | needed | {"responses": responses}


_PROBLEM: dict[str, Any] = {
    "description": "Problem JSON (RFC 9457). 429 and 503 carry Retry-After.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string", "examples": ["urn:tracebility:error:not-found"]},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "hint": {"type": "string"},
                    "instance": {"type": "string"},
                },
            }
        }
    },
}
