"""A short-lived child of ``tracebility up``: bring both schemas up to date and make the first tenant.

A process of its own, so that the supervisor never loads a store's client and stays small.
"""

import asyncio
import sys
from pathlib import Path


async def prepare(tenant_file: Path) -> None:
    """Migrate, then make the first tenant unless it exists; ``tenant_file`` has it before it is committed."""


def main() -> int:
    """Run it; the exit code."""
    from tracebility.errors import ConfigurationError

    try:
        asyncio.run(prepare(Path(sys.argv[1])))
    except ConfigurationError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
