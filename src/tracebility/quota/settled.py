"""What orgs have used, as last settled in the control plane."""

from tracebility.ids import OrgId
from tracebility.stores.postgres import Postgres
from tracebility.tenant.quota import Usage


class PostgresUsage:
    """The admission's `UsageStore`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def usage(self, org_id: OrgId, period: str) -> Usage:
        """As last settled; nothing, up to no time at all, in a period that nobody has settled yet."""
        rows = await self._postgres.fetch("usage_of_period", org_id, period)
        if not rows:
            return Usage(0, {})
        return Usage(min(row["watermark"] for row in rows), {row["meter"]: row["used_amount"] for row in rows})
