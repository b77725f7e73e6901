"""Encodes mapped OTLP spans as a block of `span`, with the ids and sizes that metering and runs need."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Pieces
from tracebility.wire.envelope import Header
from tracebility.wire.otlp.spans import Bytes, Ints, words_at
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.batch import Chunk, identity
from tracebility.worker.columns import block_of, completeness
from tracebility.worker.previews import Order, previews
from tracebility.worker.resource_scope import ResourceScope
from tracebility.worker.span_reader import MappedSpans

_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def span_chunk(
    mapped: MappedSpans,
    names: AttributeNames,
    headers: list[tuple[Header, int]],
    scopes: Sequence[tuple[ResourceScope, int]],
    sizes: list[int],
) -> Chunk:
    """Encode ``mapped``. ``headers`` and ``scopes`` come in the order of the spans, each with its number of spans."""
    spans = mapped.spans
    trace_hex, span_hex = _hex(spans.data, spans.trace_at, 16), _hex(spans.data, spans.span_at, 8)
    ids = _event_ids(headers, trace_hex, span_hex)
    traces = _Traces(headers, spans.data, spans.trace_at, trace_hex)
    texts = mapped.texts
    order = Order(traces.code, mapped.has_parent, mapped.start_ns, mapped.end_ns)
    input_preview, output_preview = previews(order, texts["inputs"], texts["outputs"])
    data = {
        **{name: native.low_cardinality_codes(codes, mapped.labels) for name, codes in mapped.label.items()},
        **{name: _int64(values) for name, values in mapped.count.items()},
        **texts,
        "trace_id": _fixed(trace_hex),
        "span_id": _fixed(span_hex),
        "parent_span_id": _fixed_or_empty(_hex(spans.data, spans.parent_at, 8), mapped.has_parent),
        "start_time": _int64(mapped.start_ns),
        "end_time": [(mapped.end_ns == 0).astype(np.uint8).tobytes(), *_int64(mapped.end_ns)],
        "cost": [(~mapped.has_cost).astype(np.uint8).tobytes(), *_int64(mapped.cost)],
        "input_preview": input_preview,
        "output_preview": output_preview,
        "tags": native.arrays_of_cells(mapped.tags),
        "metadata": native.maps_of_cells(mapped.metadata, mapped.metadata_keys),
        "attributes": native.maps_codes(
            mapped.attribute_names, names.cells, mapped.attribute_texts, mapped.attribute_counts
        ),
        "resource": native.repeated_maps([(scope.keys, scope.values, count) for scope, count in scopes if count]),
    }
    has_usage = mapped.has_cost | (mapped.count["total_tokens"] > 0)
    has_output = np.array([len(cell) > 1 for cell in texts["outputs"]], np.bool_)
    block = block_of(data, headers, ids, completeness(mapped.end_ns > 0, has_output, has_usage))
    return Chunk(len(sizes), block, ids, sizes, headers, traces.ids)


def _int64(values: npt.NDArray[np.int64]) -> Pieces:
    return [values.astype("<i8").tobytes()]


def _hex(data: Bytes, at: Ints, size: int) -> Bytes:
    """Ids in lowercase hex, one row of ASCII codes for each id."""
    return _HEX[words_at(data, at, size)].view(np.uint8)


def _fixed(texts: Bytes) -> Pieces:
    """Encode texts of equal length."""
    rows, size = texts.shape
    return [np.concatenate([np.full((rows, 1), size, np.uint8), texts], axis=1).tobytes()]


def _fixed_or_empty(texts: Bytes, is_set: npt.NDArray[np.bool_]) -> Pieces:
    """Encode texts of equal length; the text is empty where ``is_set`` is false."""
    rows, size = texts.shape
    cells = np.concatenate([np.full((rows, 1), size, np.uint8), texts], axis=1)
    cells[~is_set, 0] = 0
    kept = np.ones(cells.shape, np.bool_)
    kept[~is_set, 1:] = False
    return [cells[kept].tobytes()]


def _event_ids(headers: Iterable[tuple[Header, int]], traces: Bytes, spans: Bytes) -> bytes:
    """The same ids as `batch.event_id`, joined."""
    rows = len(traces)
    bar, end = np.full((rows, 1), ord("|"), np.uint8), np.tile(np.frombuffer(b"|span", np.uint8), (rows, 1))
    hashed_texts = np.concatenate([traces, bar, spans, end], axis=1)
    size, flat = hashed_texts.shape[1], hashed_texts.tobytes()
    ids: list[bytes] = []
    at = 0
    for header, count in headers:
        hashed = identity(header)
        for _ in range(count):
            of_span = hashed.copy()
            of_span.update(flat[at : at + size])
            ids.append(of_span.digest())
            at += size
    return b"".join(ids)


class _Traces:
    """Numbers of the traces of a chunk. The same trace id in two projects means two traces."""

    def __init__(self, headers: Sequence[tuple[Header, int]], data: Bytes, at: Ints, texts: Bytes) -> None:
        words = words_at(data, at, 16).view("<u8")
        projects = {header.project_id: number for number, (header, _) in enumerate(headers)}
        project = np.repeat([projects[header.project_id] for header, _ in headers], [rows for _, rows in headers])
        order = np.lexsort((words[:, 1], words[:, 0], project))
        ordered = words[order]
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (np.diff(project[order]) != 0) | (ordered[1:] != ordered[:-1]).any(axis=1)
        self.code: Ints = np.empty(len(order), np.int64)
        self.code[order] = np.cumsum(begins) - 1
        self.ids = [row.tobytes().decode() for row in texts[order[begins]]]
