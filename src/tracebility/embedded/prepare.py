"""A short-lived child of ``tracebility up``: bring both schemas up to date and make the first tenant.

A process of its own, so that the supervisor never loads a store's client and stays small. It is also the first to use
each DSN in earnest, so a wrong one is told here, once, before any service starts.
"""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tracebility.config import Settings, load_settings
from tracebility.embedded.installation import write_private
from tracebility.errors import ConfigurationError, TracebilityError

if TYPE_CHECKING:
    from tracebility.stores.bootstrap import FirstTenant


async def prepare(settings: Settings, tenant_file: Path) -> None:
    """Migrate, then make the first tenant unless it exists; ``tenant_file`` has it before it is committed."""
    from tracebility.stores import postgres, redis
    from tracebility.stores.bootstrap import ensure_first_tenant
    from tracebility.stores.migrations import migrate

    pg_dsn = settings.dsn("TRACEBILITY_PG_DSN")
    queue = await redis.connect(settings.dsn("TRACEBILITY_REDIS_URL"))
    await queue.close()
    await migrate(pg_dsn, settings.dsn("TRACEBILITY_CLICKHOUSE_URL"), say=_say)
    control = await postgres.connect(pg_dsn)
    try:
        await ensure_first_tenant(control, lambda tenant: _keep(tenant_file, tenant))
    finally:
        await control.close()


def main() -> int:
    """Run it; the exit code."""
    try:
        asyncio.run(prepare(load_settings(), Path(sys.argv[1])))
    except ConfigurationError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        return 2
    except TracebilityError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        return 1
    return 0


def _keep(tenant_file: Path, tenant: "FirstTenant") -> None:
    write_private(tenant_file, {name: str(value) for name, value in asdict(tenant).items()})


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
