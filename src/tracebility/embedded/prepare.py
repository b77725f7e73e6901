"""A short-lived child of ``tracebility up`` that migrates both schemas and creates the first tenant.

It is a separate process so that the supervisor does not load the clients of the stores and stays small. It connects to
every store before any service starts, so that a wrong DSN is reported once.
"""

import asyncio
import sys
from pathlib import Path

from tracebility.config import Settings, load_settings
from tracebility.embedded.first_tenant import ensure_tenant
from tracebility.errors import ConfigurationError, TracebilityError
from tracebility.stores import postgres
from tracebility.stores.migrations import migrate
from tracebility.stores.queue import connect_queue
from tracebility.targets import wait_for_start


async def prepare(settings: Settings, tenant_file: Path) -> None:
    """Migrate, then ensure that ``tenant_file`` holds a tenant of this control plane."""
    pg_dsn = settings.dsn("TRACEBILITY_PG_DSN")
    queue = await connect_queue(settings.dsn("TRACEBILITY_REDIS_URL"))
    await queue.close()
    await migrate(pg_dsn, settings.dsn("TRACEBILITY_CLICKHOUSE_URL"), say=_say)
    control = await postgres.connect(pg_dsn)
    try:
        await ensure_tenant(control, tenant_file)
    finally:
        await control.close()


def main() -> int:
    """Run `prepare` and return the exit code."""
    try:
        settings = load_settings()
        wait_for_start(settings)
        asyncio.run(prepare(settings, Path(sys.argv[1])))
    except ConfigurationError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        return 2
    except TracebilityError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
