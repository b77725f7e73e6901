"""A request's id is in its log lines, and nowhere else."""

import json
from typing import Any

import pytest
import structlog

from tracebility import request_id
from tracebility.telemetry import configure_logging


def test_log_lines_of_a_request_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api")
    try:
        log: Any = structlog.get_logger()
        with request_id.answering(b"abc"):
            log.info("inside")
        log.info("outside")
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    inside, outside = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (inside["request_id"], outside.get("request_id")) == ("abc", None)
