"""The batch under way: rows of `span` from envelopes, of each envelope all spans or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from tracebility.wire.envelope import Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker.span_reader import AttributeNames, ResourceScope


class Pending(NamedTuple):
    """An envelope whose spans wait to be mapped with others': where they lie in the body, and whose they are."""

    header: Header
    body: bytes
    starts: list[int]
    ends: list[int]
    owners: list[tuple[ResourceScope, int]]  # resource and scope, and how many spans in a row have it


class Chunk(NamedTuple):
    """Spans that were mapped together: a block of `span`, and what the meter and the runs need of them."""

    rows: int
    block: bytes
    event_ids: bytes
    sizes: list[int]
    headers: list[tuple[Header, int]]
    traces: list[str]


class Batch:
    """Rows of whole envelopes: chunks of OTLP spans, rows of native runs, and spans that wait to become a chunk."""

    def __init__(self, names: AttributeNames, prices: PriceTable) -> None:
        self.names = names
        self.prices = prices
        self.runs: list[dict[str, Any]] = []  # rows of native runs, by name of the column
        self.sizes: list[int] = []  # of them, in bytes as received
        self.envelopes: list[tuple[Header, int]] = []  # of native runs
        self.bytes = 0  # of the bodies, inflated
        self.pending_spans = self.pending_bytes = 0
        self.chunks: list[Chunk] = []
        self.refused: list[tuple[UUID, Exception]] = []  # envelopes that could not be mapped after they had waited
        self.owners: dict[tuple[bytes, bytes], ResourceScope] = {}
        self._pending: list[Pending] = []

    def __len__(self) -> int:
        return len(self.runs) + self.pending_spans + sum(chunk.rows for chunk in self.chunks)

    def add_pending(self, pending: Pending) -> None:
        """Have spans wait."""
        self._pending.append(pending)
        self.pending_spans += len(pending.starts)
        self.pending_bytes += len(pending.body)

    def take_pending(self) -> list[Pending]:
        """What waits, which waits no longer."""
        pending, self._pending = self._pending, []
        self.pending_spans = self.pending_bytes = 0
        return pending

    def traces(self) -> list[str]:
        """The ids of the traces that the rows belong to."""
        return sorted({run["trace_id"] for run in self.runs}.union(*(chunk.traces for chunk in self.chunks)))

    def orgs(self) -> list[str]:
        """The ids of the organisations that the rows belong to."""
        headers = chain(self.envelopes, *(chunk.headers for chunk in self.chunks))
        return sorted({str(header.org_id) for header, _ in headers})

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Keep what is added inside, or nothing of it when that raises."""
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
    """The hash of an event id, up to the tenant: ``.copy()``, add ``trace|span|span``, and the digest is the id."""
    return blake2b(f"{header.org_id}|{header.project_id}|".encode(), digest_size=16)


def event_id(header: Header, trace_id: str, span_id: str) -> UUID:
    """The id under which a span is billed: the same for every delivery and for every copy of the span."""
    hashed = identity(header)
    hashed.update(f"{trace_id}|{span_id}|span".encode())
    return UUID(bytes=hashed.digest())
