"""Spans of real instrumentations become the rows recorded in ``tests/data/otlp_rows``.

The rows were recorded with the mapping of one span at a time that the present one replaced. An intended change of the
mapping changes them: ``RECORD=1 pytest`` on this file writes them anew.
"""

import gzip
import json
import os
from pathlib import Path
from types import SimpleNamespace as Wire
from typing import Any

import pytest
from tests.data.otlp_corpus import DIALECTS, bodies

from tracebility.wire import otlp
from tracebility.worker import mapping
from tracebility.worker.columns import span_block

FOLDER = Path(__file__).parents[2] / "data" / "otlp_rows"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_recorded_spans_become_the_recorded_rows(wire: Wire, dialect: str) -> None:
    file = FOLDER / f"{dialect}.jsonl.gz"
    batch = wire.Mapped()
    for body in bodies(dialect):
        spans = list(otlp.spans_of(otlp.decode(body, otlp.PROTOBUF)))
        mapping.add(batch, wire.make_envelope(body, items=len(spans)))
    mapping.map_pending(batch)
    rows = [_plain(row) for row in wire.decoded(span_block(batch))]
    if os.environ.get("RECORD"):
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        file.write_bytes(gzip.compress(text.encode(), mtime=0))
    expected = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert len(rows) == len(expected)
    for row, recorded in zip(rows, expected, strict=True):
        assert row == recorded


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it; the version is of the moment of accept, which is not what is recorded."""
    made: dict[str, Any] = json.loads(json.dumps({name: row[name] for name in row if name != "version"}, default=str))
    return made
