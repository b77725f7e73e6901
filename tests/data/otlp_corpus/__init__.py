"""OTLP request bodies of real instrumentations, by dialect. ``tests/data/record_otlp_corpus.py`` recorded them.

``index.json`` names each dialect's packages with their versions, its requests and its spans.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
INDEX = json.loads((FOLDER / "index.json").read_text())
DIALECTS: tuple[str, ...] = tuple(INDEX)


def bodies(dialect: str) -> list[bytes]:
    """The protobuf bodies of ``dialect``, as they were sent, decompressed."""
    return [gzip.decompress(path.read_bytes()) for path in sorted((FOLDER / dialect).glob("*.pb.gz"))]


def corpus() -> Iterator[tuple[str, bytes]]:
    """Every dialect with each of its bodies."""
    for dialect in DIALECTS:
        for body in bodies(dialect):
            yield dialect, body
