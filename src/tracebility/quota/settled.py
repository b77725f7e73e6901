"""Settled usage of orgs, from PostgreSQL."""

from tracebility.ids import OrgId
from tracebility.stores.postgres import Postgres
from tracebility.tenant.quota import Usage


class PostgresUsage:
    """Implements admission's `UsageStore`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def usage(self, org_id: OrgId, period: str) -> Usage:
        """Return the last settled usage; an empty one with watermark 0 when the period is not settled yet."""
        rows = await self._postgres.fetch("usage_of_period", org_id, period)
        if not rows:
            return Usage(0, {})
        return Usage(min(row["watermark"] for row in rows), {row["meter"]: row["used_amount"] for row in rows})
