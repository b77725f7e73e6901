"""The open batch: rows of `span`, with all spans of an envelope or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from tracebility.wire.envelope import Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.resource_scope import ResourceScope


class Pending(NamedTuple):
    """An envelope whose spans wait to be mapped together with others: their offsets in the body and their scopes."""

    header: Header
    body: bytes
    starts: list[int]
    ends: list[int]
    scopes: list[tuple[ResourceScope, int]]  # in order of the spans, each with its number of consecutive spans


class Chunk(NamedTuple):
    """Spans that were mapped together: a block of `span`, with the ids and sizes that metering and runs need."""

    rows: int
    block: bytes
    event_ids: bytes
    sizes: list[int]
    headers: list[tuple[Header, int]]
    traces: list[str]


class Batch:
    """Chunks of OTLP spans, rows of native runs, and OTLP spans that wait to be mapped."""

    def __init__(self, names: AttributeNames, prices: PriceTable) -> None:
        self.names = names
        self.prices = prices
        self.runs: list[dict[str, Any]] = []  # rows of native runs, by column name
        self.sizes: list[int] = []  # of native runs, in bytes as received
        self.envelopes: list[tuple[Header, int]] = []  # of native runs, each with its number of rows
        self.bytes = 0  # of all bodies, after decompression
        self.pending_spans = self.pending_bytes = 0
        self.chunks: list[Chunk] = []
        self.refused: list[tuple[UUID, Exception]] = []  # envelopes whose spans could not be mapped
        self.scopes: dict[tuple[bytes, bytes], ResourceScope] = {}
        self._pending: list[Pending] = []

    def __len__(self) -> int:
        return len(self.runs) + self.pending_spans + sum(chunk.rows for chunk in self.chunks)

    def add_pending(self, pending: Pending) -> None:
        """Add spans that wait to be mapped."""
        self._pending.append(pending)
        self.pending_spans += len(pending.starts)
        self.pending_bytes += len(pending.body)

    def take_pending(self) -> list[Pending]:
        """Remove and return all waiting spans."""
        pending, self._pending = self._pending, []
        self.pending_spans = self.pending_bytes = 0
        return pending

    def traces(self) -> list[str]:
        """The trace ids of the rows."""
        return sorted({run["trace_id"] for run in self.runs}.union(*(chunk.traces for chunk in self.chunks)))

    def orgs(self) -> list[str]:
        """The org ids of the rows."""
        headers = chain(self.envelopes, *(chunk.headers for chunk in self.chunks))
        return sorted({str(header.org_id) for header, _ in headers})

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Undo all additions inside this context if an exception leaves it."""
        lists: tuple[list[Any], ...] = (self.runs, self.sizes, self.envelopes)
        lengths = [len(one) for one in lists]
        pending, spans, size = len(self._pending), self.pending_spans, self.pending_bytes
        try:
            yield
        except BaseException:
            for one, length in zip(lists, lengths, strict=True):
                del one[length:]
            del self._pending[pending:]
            self.pending_spans, self.pending_bytes = spans, size
            raise


def identity(header: Header) -> "blake2b":
    """The hash state of event ids after the tenant. Copy it and add ``trace|span|span``: the digest is the event id."""
    return blake2b(f"{header.org_id}|{header.project_id}|".encode(), digest_size=16)


def event_id(header: Header, trace_id: str, span_id: str) -> UUID:
    """The id that a span is billed under, the same for every delivery and every copy of the span."""
    hashed = identity(header)
    hashed.update(f"{trace_id}|{span_id}|span".encode())
    return UUID(bytes=hashed.digest())
