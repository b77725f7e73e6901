"""Usage of an org's quotas in the current month, as last settled from ClickHouse."""

from datetime import datetime

import msgspec

from tracebility.errors import NotFound
from tracebility.ids import OrgId
from tracebility.stores.postgres import Statements
from tracebility.tenant.quota import METERS, resets_at
from tracebility.validation import stamp


class MeterUsage(msgspec.Struct, kw_only=True):
    """Usage and limits of one meter. ``as_of`` is the time of the last sum, null before the first."""

    meter: str
    used: int
    hard_limit: int | None
    soft_limit: int | None
    resets_at: str
    as_of: str | None


class Quotas(msgspec.Struct, kw_only=True):
    """All meters of an org in one month (UTC)."""

    plan: str
    period: str
    meters: list[MeterUsage]


async def read_quotas(control: Statements, org_id: OrgId, now: datetime) -> Quotas:
    """Return the usage of ``org_id`` in the month of ``now``.

    Raises:
        NotFound: when there is no such org.
    """
    period = f"{now:%Y-%m}"
    rows = await control.fetch("read_quotas", org_id, period, list(METERS))
    if not rows:
        raise NotFound
    ends = f"{resets_at(period):%Y-%m-%dT%H:%M:%SZ}"
    return Quotas(
        plan=rows[0]["plan"],
        period=period,
        meters=[
            MeterUsage(
                meter=row["meter"],
                used=row["used"],
                hard_limit=row["hard_limit"],
                soft_limit=row["soft_limit"],
                resets_at=ends,
                as_of=stamp(row["as_of"]),
            )
            for row in rows
        ],
    )
