"""What an org may send, keep and run at once: each limit with its unit and its reason.

A plan is written whole: null says that a limit is not wanted, and what is left out is a plan half written, which is
refused. Left out may be a meter, its soft limit, the burst, and what came later than the rest.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

# What the limiter can count, and what one process can serve at most is far below.
MOST_REQUESTS_PER_S = 1_000_000
LARGEST_BURST = 10_000_000
LONGEST_RETENTION_DAYS = 36_500
MOST_AT_ONCE = 10_000
# What every reader of JSON reads exactly.
LARGEST_AMOUNT = 2**53 - 1


def _limit(least: int, most: int, unit: str, reason: str) -> Meta:
    return Meta(ge=least, le=most, extra={"unit": unit}, description=reason)


RequestsPerS = Annotated[
    int,
    _limit(
        1,
        MOST_REQUESTS_PER_S,
        "requests/s",
        "Over all keys and ingest routes: a loop gone wild costs its own org alone.",
    ),
]
Burst = Annotated[
    int,
    _limit(
        1,
        LARGEST_BURST,
        "requests",
        "At once after a pause: exporters send by the batch. Unless said, a second's worth.",
    ),
]
RetentionDays = Annotated[
    int,
    _limit(
        1,
        LONGEST_RETENTION_DAYS,
        "days",
        "From the start of a span or run until it is deleted: data costs disk, and may have to go by law.",
    ),
]
EvalConcurrency = Annotated[
    int,
    _limit(
        1,
        MOST_AT_ONCE,
        "evaluations",
        "At once: evaluators call models, which have limits and prices of their own.",
    ),
]
QueryConcurrency = Annotated[
    int, _limit(1, MOST_AT_ONCE, "queries", "At once: the engine is shared, and its memory with it.")
]
Hard = Annotated[
    int,
    _limit(
        0,
        LARGEST_AMOUNT,
        "of the meter, a month",
        "Past it requests are refused whole: nobody is billed for more than was agreed. 0 refuses all.",
    ),
]
Soft = Annotated[
    int,
    _limit(
        0,
        LARGEST_AMOUNT,
        "of the meter, a month",
        "Past it the org is told, once a month: there is time to do something before the hard one.",
    ),
]


class RateLimits(msgspec.Struct, forbid_unknown_fields=True):
    """Requests of an org, over all its keys. A burst that is not given is a second's worth; one of null never ends, so
    that nothing is limited.
    """

    requests_per_s: RequestsPerS | None
    burst: Burst | msgspec.UnsetType | None = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.burst is msgspec.UNSET:
            self.burst = self.requests_per_s and min(self.requests_per_s, LARGEST_BURST)
        elif self.burst is None:
            self.requests_per_s = None


class MeterLimits(msgspec.Struct, forbid_unknown_fields=True):
    """What a meter may come to in a month. A hard limit of 0 refuses everything; at the soft one the org is told."""

    hard: Hard | None
    soft: Soft | None = None

    def __post_init__(self) -> None:
        if self.hard is not None and self.soft is not None and self.soft > self.hard:
            raise ValueError(f"soft: takes at most hard, {self.hard}")


class Meters(msgspec.Struct, forbid_unknown_fields=True):
    """The meters there are. One that is absent is unlimited."""

    spans: MeterLimits | None = None
    bytes: MeterLimits | None = None


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    """All limits of an org, as its plan has them. None is unlimited."""

    rate: RateLimits | None
    meters: Meters | None
    retention_days: RetentionDays | None = None
    eval_concurrency: EvalConcurrency | None = None
    query_concurrency: QueryConcurrency | None = None
