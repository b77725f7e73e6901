"""Stored text becomes JSON only where that is safe and exact."""

import json
from typing import Any

import msgspec
import pytest

from tracebility.api.page_parts import ago, duration, money
from tracebility.api.routers.runs import spans_from

ROW: dict[str, Any] = {
    "trace_id": "t", "span_id": "s", "parent_span_id": "", "name": "n", "kind": "llm", "otel_kind": "", "start_ns":
    10**18,     "end_ns": 10**18 + 1_500_000, "status": "ok", "status_message": "", "error_type": "", "model": "",
    "request_model": "",     "provider": "", "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
    "cache_read_tokens": 0,     "cache_write_tokens": 0, "reasoning_tokens": 0, "cost": None, "cost_source": "",
    "time_to_first_token_ns": 0,     "inputs": "", "outputs": "", "session_id": "", "user_id": "", "tags": [],
    "metadata": {}, "attributes": {},     "resource": {}, "scope_name": "", "scope_version": "", "environment": "",
    "events": "", "links": "", "source": "otlp",     "accepted_us": 10**15,
}  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "answered"),
    [
        ("", "null"),
        ('{"a": 1.10, "big": 12345678901234567890}', '{"a": 1.10, "big": 12345678901234567890}'),
        ("[1]", "[1]"),
        ("42", '"42"'),
        ("true", '"true"'),
        ("{not json", '"{not json"'),
        ('{"a": NaN}', json.dumps('{"a": NaN}')),
        ("[1] and more", '"[1] and more"'),
        ("[" * 200 + "]" * 200, json.dumps("[" * 200 + "]" * 200)),
        ("[" * 50_000, json.dumps("[" * 50_000)),
        ('say "hi"\n', json.dumps('say "hi"\n')),
    ],
)
def test_objects_and_arrays_are_answered_as_they_were_sent_and_the_rest_as_text(stored: str, answered: str) -> None:
    row = ROW | {"inputs": stored, "metadata": {"k": stored}}
    [span] = spans_from({name: (value,) for name, value in row.items()})
    assert msgspec.json.encode(span.inputs).decode() == answered
    assert msgspec.json.encode(span.metadata["k"]).decode() == (answered if stored else '""')


def test_numbers_are_written_as_people_read_them() -> None:
    minute = 60 * 10**9
    assert [ago(0, ns) for ns in (-1, 59 * 10**9, minute, 125 * minute, 3000 * minute)] == [
        "in the future", "59 s ago", "1 minute ago", "2 hours ago", "2 days ago",
    ]  # fmt: skip
    assert [duration(ms) for ms in (None, 0.4, 999, 1234, 61_000)] == ["-", "0 ms", "999 ms", "1.23 s", "1 min 1 s"]
    assert [money(usd) for usd in (None, 0, 0.00012, 12.5)] == ["-", "$0.00", "$0.0001", "$12.50"]


def test_no_spans_are_no_spans() -> None:
    assert spans_from({}) == spans_from(dict.fromkeys(ROW, ())) == []
