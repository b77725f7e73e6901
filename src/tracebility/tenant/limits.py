"""The limits of a plan, each with its unit and its reason.

A plan must be complete: null means unlimited, and a missing required limit is refused. Optional are a meter, its soft
limit, the burst, and limits that were added after the first version.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

# The rate limiter's resolution; far above what one process can serve.
MAX_REQUESTS_PER_S = 1_000_000
MAX_BURST = 10_000_000
MAX_RETENTION_DAYS = 36_500
MAX_CONCURRENCY = 10_000
# The largest integer that every JSON parser reads exactly.
MAX_AMOUNT = 2**53 - 1


def _limit(least: int, most: int, unit: str, reason: str) -> Meta:
    return Meta(ge=least, le=most, extra={"unit": unit}, description=reason)


RequestsPerS = Annotated[
    int,
    _limit(
        1,
        MAX_REQUESTS_PER_S,
        "requests/s",
        "Over all keys and ingest routes of the org, so that a client in a loop affects only its own org.",
    ),
]
Burst = Annotated[
    int,
    _limit(
        1,
        MAX_BURST,
        "requests",
        "Requests accepted at once after a pause, because exporters send in batches. Default: one second of the rate.",
    ),
]
RetentionDays = Annotated[
    int,
    _limit(
        1,
        MAX_RETENTION_DAYS,
        "days",
        "From the start of a span or run until its deletion. Data uses disk, and laws may require its deletion.",
    ),
]
EvalConcurrency = Annotated[
    int,
    _limit(
        1,
        MAX_CONCURRENCY,
        "evaluations",
        "Running at once. Evaluators call models, which have their own limits and prices.",
    ),
]
QueryConcurrency = Annotated[
    int, _limit(1, MAX_CONCURRENCY, "queries", "Running at once. All orgs share ClickHouse and its memory.")
]
Hard = Annotated[
    int,
    _limit(
        0,
        MAX_AMOUNT,
        "of the meter, a month",
        "A request that would exceed it is refused, so that no org is billed for more than agreed. 0 refuses all.",
    ),
]
Soft = Annotated[
    int,
    _limit(
        0,
        MAX_AMOUNT,
        "of the meter, a month",
        "Reaching it writes one audit event a month, so that the org can act before the hard limit.",
    ),
]


class RateLimits(msgspec.Struct, forbid_unknown_fields=True):
    """Request rate of an org, over all its keys. The default burst is one second of the rate. A null burst is infinite,
    so the rate is then unlimited.
    """

    requests_per_s: RequestsPerS | None
    burst: Burst | msgspec.UnsetType | None = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.burst is msgspec.UNSET:
            self.burst = self.requests_per_s and min(self.requests_per_s, MAX_BURST)
        elif self.burst is None:
            self.requests_per_s = None


class MeterLimits(msgspec.Struct, forbid_unknown_fields=True):
    """Monthly limits of a meter. A hard limit of 0 refuses everything; the soft limit writes an audit event."""

    hard: Hard | None
    soft: Soft | None = None

    def __post_init__(self) -> None:
        if self.hard is not None and self.soft is not None and self.soft > self.hard:
            raise ValueError(f"soft: must be at most hard, which is {self.hard}")


class Meters(msgspec.Struct, forbid_unknown_fields=True):
    """Limits by meter. An absent meter is unlimited."""

    spans: MeterLimits | None = None
    bytes: MeterLimits | None = None


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    """All limits of a plan. None is unlimited."""

    rate: RateLimits | None
    meters: Meters | None
    retention_days: RetentionDays | None = None
    eval_concurrency: EvalConcurrency | None = None
    query_concurrency: QueryConcurrency | None = None
