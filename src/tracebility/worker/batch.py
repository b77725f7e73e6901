"""The batch under way: rows of spans gathered from envelopes, one envelope at a time, all of its spans or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Header
from tracebility.wire.pricing import PriceTable


class Row(NamedTuple):
    """A span, but for what its envelope and its resource say. Counts tell how much of the batch's flat lists is its."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    otel_kind: str
    start_ns: int
    end_ns: int | None
    status: str
    status_message: str
    error_type: str
    model: str
    request_model: str
    provider: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost: int | None  # nanodollars
    cost_source: str
    time_to_first_token_ns: int
    inputs: str
    outputs: str
    session_id: str
    user_id: str
    tags: int
    metadata: int
    attributes: int
    scope_name: str
    scope_version: str
    environment: str
    events: str
    links: str
    event_id: bytes
    size: int  # bytes as received


class Resource(NamedTuple):
    """What a process says about itself, for ``rows`` spans in a row."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    rows: int


class Around(NamedTuple):
    """What the resource and the scope say of their spans. ``is_plain``: in few enough words for `plain_columns`."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    environment: str
    session_id: str
    user_id: str
    scope_name: str
    scope_version: str
    is_plain: bool
    chars: int


class Waiting(NamedTuple):
    """An envelope whose spans are to be mapped with others': where they lie in the body, and their positions in it."""

    header: Header
    body: bytes
    starts: list[int]
    ends: list[int]
    positions: list[int]
    around: list[tuple[Around, int]]  # of so many spans each


class Chunk(NamedTuple):
    """Spans that were mapped together: a block of `span`, and what the meter and the runs need of them."""

    rows: int
    block: bytes
    event_ids: bytes
    sizes: list[int]
    headers: list[tuple[Header, int]]
    traces: list[str]


class Batch:
    """Rows of whole envelopes: lists that grow together, chunks of spans, and what waits to become one."""

    def __init__(self, table: RuleTable, prices: PriceTable) -> None:
        self.table = table
        self.prices = prices
        self.rows: list[tuple[Any, ...]] = []  # in the order of `Row`
        self.attribute_keys: list[str] = []
        self.attribute_values: list[str] = []
        self.metadata_keys: list[str] = []
        self.metadata_values: list[str] = []
        self.tags: list[str] = []
        self.resources: list[Resource] = []
        self.envelopes: list[tuple[Header, int]] = []
        self.bytes = 0  # of the bodies, inflated
        self.waiting: list[Waiting] = []
        self.chunks: list[Chunk] = []
        self.refused: list[tuple[UUID, Exception]] = []  # envelopes that could not be mapped after they had waited
        self.arounds: dict[tuple[bytes, bytes], Around] = {}

    @property
    def waiting_spans(self) -> int:
        """How many spans are not mapped yet."""
        return sum(len(one.starts) for one in self.waiting)

    def __len__(self) -> int:
        return len(self.rows) + self.waiting_spans + sum(chunk.rows for chunk in self.chunks)

    def traces(self) -> list[str]:
        """The ids of the traces that the rows belong to."""
        return sorted({row[0] for row in self.rows}.union(*(chunk.traces for chunk in self.chunks)))

    def orgs(self) -> list[str]:
        """The ids of the organisations that the rows belong to."""
        headers = chain(self.envelopes, *(chunk.headers for chunk in self.chunks))
        return sorted({str(header.org_id) for header, _ in headers})

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Keep what is added inside, or nothing of it when that raises."""
        lists: tuple[list[Any], ...] = (
            self.rows,
            self.attribute_keys,
            self.attribute_values,
            self.metadata_keys,
            self.metadata_values,
            self.tags,
            self.resources,
            self.envelopes,
            self.waiting,
            self.chunks,
            self.refused,
        )
        lengths = [len(one) for one in lists]
        try:
            yield
        except BaseException:
            for one, length in zip(lists, lengths, strict=True):
                del one[length:]
            raise


def identity(header: Header) -> "blake2b":
    """The hash of an event id, up to the tenant: ``.copy()``, add ``trace|span|span``, and the digest is the id."""
    return blake2b(f"{header.org_id}|{header.project_id}|".encode(), digest_size=16)


def event_id(header: Header, trace_id: str, span_id: str) -> UUID:
    """The id under which a span is billed, the same however often and in whichever envelope it comes."""
    hashed = identity(header)
    hashed.update(f"{trace_id}|{span_id}|span".encode())
    return UUID(bytes=hashed.digest())
