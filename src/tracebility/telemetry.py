"""Logs and metrics of all targets: one JSON line per log event, one Prometheus registry per process."""

import logging
import sys
from collections.abc import Sequence
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from structlog.typing import EventDict

from tracebility import request_id

METRIC_PREFIX = "tracebility_"
METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

# From a cached answer to the timeout of a store; finer around the promised latencies (50, 80, 150 ms; 1 s, 3 s).
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)


def configure_logging(target: str, *, level: int = logging.INFO) -> None:
    """Write JSON logs to standard error; each line names ``target``. Callers must not log secrets."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _with_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(target=target)


def _with_request_id(_logger: object, _method: str, line: EventDict) -> EventDict:
    if request_id.current():
        line["request_id"] = request_id.current()
    return line


_Kind = TypeVar("_Kind", Counter, Gauge)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The metrics of one process (or of one test). Asked twice for a name, it gives the same metric.

    Labels name kinds of things (the template of a route, a store, a shard), never ids: an org, a project, a path in one
    would grow without bound and tell one tenant about another.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        ProcessCollector(namespace="tracebility", registry=self.registry)

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows; its exposed name ends in ``_total``."""
        return self._metric(Counter, name, description, labels)

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down."""
        return self._metric(Gauge, name, description, labels)

    def histogram(
        self, name: str, description: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        """A distribution; seconds unless the name says otherwise."""
        made = self._made.get(name)
        if made is None:
            _check_prefix(name)
            made = self._made[name] = Histogram(name, description, labels, buckets=buckets, registry=self.registry)
        assert isinstance(made, Histogram)
        return made

    def exposition(self) -> bytes:
        """Return the body of ``/metrics``, of type ``METRICS_CONTENT_TYPE``."""
        return generate_latest(self.registry)

    def _metric(self, kind: type[_Kind], name: str, description: str, labels: Sequence[str]) -> _Kind:
        made = self._made.get(name)
        if made is None:
            _check_prefix(name)
            made = self._made[name] = kind(name, description, labels, registry=self.registry)
        assert isinstance(made, kind)
        return made


class RequestMetrics:
    """How many requests a target answered, with what, and how long they took."""

    def __init__(self, metrics: Metrics, target: str) -> None:
        self._target = target
        self._seconds = metrics.histogram(
            "tracebility_http_request_seconds",
            "Time from the request's first byte to the end of its answer, by target, route and status.",
            ("target", "route", "method", "status"),
        )
        self._in_flight = metrics.gauge(
            "tracebility_http_requests_in_flight", "Requests being answered right now, by target.", ("target",)
        ).labels(target)

    def started(self) -> None:
        """A request came in; ``answered`` follows, whatever happens."""
        self._in_flight.inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """``route`` is the template (``/v1/projects/{project_id}/runs``), never the path as sent."""
        self._in_flight.dec()
        method = method if method in _METHODS else "other"
        self._seconds.labels(self._target, route, method, str(status)).observe(seconds)


def _check_prefix(name: str) -> None:
    if not name.startswith(METRIC_PREFIX):
        raise ValueError(f"metric {name} must begin with {METRIC_PREFIX}")
