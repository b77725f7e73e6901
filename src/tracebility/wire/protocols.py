"""The list of all protocols."""

from typing import Any

from tracebility.wire.native_protocol import NATIVE
from tracebility.wire.otlp_protocol import OTLP
from tracebility.wire.protocol import Protocol, Router

PROTOCOLS: tuple[Protocol, ...] = (OTLP, NATIVE)

ROUTER = Router(PROTOCOLS)

OPENAPI_PATHS: dict[str, Any] = {path: item for one in PROTOCOLS for path, item in one.openapi_paths.items()}
OPENAPI_SCHEMAS: dict[str, Any] = {name: schema for one in PROTOCOLS for name, schema in one.openapi_schemas.items()}
