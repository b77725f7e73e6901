"""Looks up the org of a project, for legacy envelopes that name no org. Connects to PostgreSQL on first use."""

import asyncio
from uuid import UUID

from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.stores import postgres


class LazyProjectOwners:
    """Project owners, over a connection to PostgreSQL that is opened on first use."""

    def __init__(self, pg_dsn: str) -> None:
        self._pg_dsn = pg_dsn
        self._opened: postgres.Postgres | None = None
        self._opening = asyncio.Lock()

    async def owner_of(self, project_id: UUID) -> tuple[UUID, UUID] | None:
        """Return the project's org and workspace; None when the project does not exist.

        Raises:
            StoreUnavailable: when PostgreSQL does not answer.
        """
        async with self._opening:
            if self._opened is None:
                try:
                    self._opened = await postgres.connect(self._pg_dsn, wait_s=0)
                except ConfigurationError as error:
                    raise StoreUnavailable("postgres", str(error)) from error
        row = await self._opened.fetchrow("owner_of_legacy_project", project_id)
        return None if row is None else (row["org_id"], row["workspace_id"])

    async def close(self) -> None:
        """Close the connection, if it was opened."""
        if self._opened is not None:
            await self._opened.close()
