"""Logs and metrics, the same for every target: one JSON line an event, one Prometheus registry a process."""

import logging
import sys

import structlog


def configure_logging(target: str, *, level: int = logging.INFO) -> None:
    """Write structured logs to standard error, each line naming ``target``. Secrets never reach a log call."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
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
