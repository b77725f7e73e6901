"""Envelopes whose spans wait to be mapped together, and the block of ``span`` that the plain ones among them become."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import structlog
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Pieces
from tracebility.wire import otlp_places
from tracebility.wire.conventions import Slot, as_text
from tracebility.wire.envelope import Header
from tracebility.wire.otlp_places import STRING, Places, words_at
from tracebility.wire.otlp_sizes import Group, groups
from tracebility.wire.otlp_values import read_any
from tracebility.worker import otlp_rows
from tracebility.worker.batch import Around, Batch, Chunk, Waiting, identity
from tracebility.worker.columns import block_of
from tracebility.worker.plain_spans import Reader, Said
from tracebility.worker.previews import PREVIEW_CHARS

# Mapped together: so many that the price of a step over all of them, a few microseconds, is nothing for each; so few
# that their bytes, 8 MB, stay in the processor's cache and the loop is held up for 60 ms.
CHUNK_SPANS = 4_096

log = structlog.get_logger()

_Ints: TypeAlias = npt.NDArray[np.int64]
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)
_RENAMED = "otel.span.name"
_UTF8_BYTES = 4  # of a character, at most


def wait(batch: Batch, header: Header, body: bytes) -> int:
    """Have the spans of ``body`` that the edge accepted mapped with those of other envelopes; how many there are.

    Raises:
        MalformedEnvelope: when what surrounds them is too much to be repeated for each.
        ValueError, IndexError: when they are not found; `otlp_rows` reads any spelling.
    """
    rejected = frozenset(header.rejected)
    starts: list[int] = []
    ends: list[int] = []
    positions: list[int] = []
    around: list[tuple[Around, int]] = []
    repeated = position = 0
    for group in groups(body):
        one = _around(batch, group)
        repeated += one.chars * len(group.spans)
        otlp_rows.check_repeated(repeated)
        before = len(starts)
        here = range(position, position + len(group.spans))
        spans, kept = group.spans, list(here)
        if rejected:
            kept = [position for position in here if position not in rejected]
            spans = [group.spans[position - here.start] for position in kept]
        starts += map(itemgetter(0), spans)
        ends += map(itemgetter(1), spans)
        positions += kept
        position = here.stop
        around.append((one, len(starts) - before))
    if starts:
        batch.waiting.append(Waiting(header, body, starts, ends, positions, around))
    return len(starts)


def map_waiting(batch: Batch) -> None:
    """Map all that wait. Of envelopes that cannot be read after all nothing is kept; they are in ``batch.refused``."""
    waiting, batch.waiting = batch.waiting, []
    if not waiting:
        return
    counts = [len(one.starts) for one in waiting]
    try:
        with batch.whole():
            _map(batch, waiting, counts)
    except MemoryError:
        raise
    except Exception:
        # One of them is not what the edge takes: each is read for itself, so that it does not hold up the others.
        log.exception("spans cannot be mapped together", envelopes=len(waiting))
        _map_others(batch, waiting, counts, np.zeros(sum(counts), np.bool_))


def _map(batch: Batch, waiting: Sequence[Waiting], counts: Sequence[int]) -> None:
    begins = np.cumsum([0, *(len(one.body) for one in waiting[:-1])])
    offsets = np.repeat(begins, counts)
    starts = np.fromiter(chain.from_iterable(one.starts for one in waiting), np.int64) + offsets
    ends = np.fromiter(chain.from_iterable(one.ends for one in waiting), np.int64) + offsets
    arounds = [around for one in waiting for around, _ in one.around]
    around = np.repeat(np.arange(len(arounds)), [spans for one in waiting for _, spans in one.around])
    spans = otlp_places.find([one.body for one in waiting], starts, ends)
    is_plain = spans.is_plain
    reader = Reader(batch, spans)
    is_plain &= np.array([one.is_plain for one in arounds])[around]
    _map_others(batch, waiting, counts, is_plain)
    if not is_plain.any():
        return
    said = reader.said([one.environment for one in arounds], around)
    kept = np.bincount(np.repeat(np.arange(len(waiting)), counts)[is_plain], minlength=len(waiting)).tolist()
    headers = [(one.header, rows) for one, rows in zip(waiting, kept, strict=True) if rows]
    per_around = np.bincount(around[is_plain], minlength=len(arounds)).tolist()
    sizes = (ends - starts)[is_plain]
    batch.chunks.append(_chunk(said, headers, list(zip(arounds, per_around, strict=True)), sizes))


def _around(batch: Batch, group: Group) -> Around:
    """What is around spans. Requests of one process say the same again and again, so what was read is remembered."""
    key = (group.resource, group.scope)
    known = batch.arounds.get(key)
    if known is None:
        keys, values, owner = otlp_rows.read_resource(batch.table, Resource.FromString(group.resource).attributes)
        name, version, attributes = otlp_rows.read_scope(InstrumentationScope.FromString(group.scope))
        chars = sum(map(len, chain(keys, values, *attributes)))
        known = batch.arounds[key] = Around(
            keys, values, owner.environment, owner.session_id, owner.user_id, name, version, not attributes, chars
        )
    return known


def _map_others(
    batch: Batch, waiting: Sequence[Waiting], counts: Sequence[int], is_plain: npt.NDArray[np.bool_]
) -> None:
    """Rows for spans that are not plain. An envelope that has one that cannot be read has none that is."""
    if is_plain.all():
        return
    at = 0
    for one, count in zip(waiting, counts, strict=True):
        mine = is_plain[at : at + count]
        at += count
        if mine.all():
            continue
        done = {position for position, plain in zip(one.positions, mine.tolist(), strict=True) if plain}
        try:
            with batch.whole():
                otlp_rows.add_spans(batch, one.header, one.body, done)
                batch.envelopes.append((one.header, count - len(done)))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever reading it raises is why it is refused
            batch.refused.append((one.header.id, error))
            mine[:] = False


def _chunk(said: Said, headers: list[tuple[Header, int]], arounds: list[tuple[Around, int]], sizes: _Ints) -> Chunk:
    spans = said.spans
    rows = len(spans.start_ns)
    trace_hex, span_hex = _hex(spans.data, spans.trace_at, 16), _hex(spans.data, spans.span_at, 8)
    ids = _event_ids(headers, trace_hex, span_hex)
    labels = list(said.labels)
    texts = {slot: otlp_places.cut(spans.buffer, *cuts) for slot, cuts in said.texts.items()}
    _fill_empty(texts[int(Slot.SESSION_ID)], ((one.session_id, count) for one, count in arounds))
    _fill_empty(texts[int(Slot.USER_ID)], ((one.user_id, count) for one, count in arounds))
    has_parent = (spans.parent_at > 0) & words_at(spans.data, spans.parent_at, 8).any(axis=1)
    traces = _Traces(headers, spans.data, spans.trace_at, trace_hex)
    inputs, outputs = texts[int(Slot.INPUTS)], texts[int(Slot.OUTPUTS)]
    first, last = _previews(said, traces.code, has_parent, inputs, outputs)

    def label(codes: _Ints) -> Pieces:
        return native.low_cardinality_codes(codes, labels)

    def number(values: npt.NDArray[Any]) -> Pieces:
        return [values.astype("<i8").tobytes()]

    def of_around(field: str) -> Pieces:
        return native.low_cardinality(list(chain.from_iterable([getattr(one, field)] * n for one, n in arounds)))

    nulls = bytes(rows)
    data = {
        "trace_id": _fixed(trace_hex),
        "span_id": _fixed(span_hex),
        "parent_span_id": _fixed_or_empty(_hex(spans.data, spans.parent_at, 8), has_parent),
        "name": label(said.name),
        "kind": label(said.kind),
        "otel_kind": native.low_cardinality_codes(
            np.where(spans.kind < len(otlp_rows.SPAN_KINDS), spans.kind, 0).astype(np.int64),
            list(map(native.text, otlp_rows.SPAN_KINDS)),
        ),
        "start_time": number(spans.start_ns),
        "end_time": [nulls, *number(spans.end_ns)],
        "status": label(said.status),
        "status_message": otlp_places.cut(spans.buffer, spans.message_at, spans.message_end),
        "error_type": label(said.error_type),
        "model": label(said.model),
        "request_model": label(said.request_model),
        "provider": label(said.provider),
        "input_tokens": number(said.tokens[0]),
        "output_tokens": number(said.tokens[1]),
        "total_tokens": number(said.tokens[2]),
        "cache_read_tokens": number(said.tokens[3]),
        "cache_write_tokens": number(said.tokens[4]),
        "reasoning_tokens": number(said.tokens[5]),
        "cost": [(~said.has_cost).astype(np.uint8).tobytes(), *number(said.cost)],
        "cost_source": label(said.cost_source),
        "time_to_first_token_ns": number(said.time_to_first_token_ns),
        "inputs": inputs,
        "outputs": outputs,
        "session_id": texts[int(Slot.SESSION_ID)],
        "user_id": texts[int(Slot.USER_ID)],
        "scope_name": of_around("scope_name"),
        "scope_version": of_around("scope_version"),
        "environment": label(said.environment),
        "events": [nulls],
        "links": [nulls],
        "input_preview": first,
        "output_preview": last,
        "tags": native.arrays_of_strings([], [0] * rows),
        "metadata": native.maps([], [], [0] * rows),
        "attributes": _attributes(said, rows),
        "resource": native.repeated_maps([(one.keys, one.values, count) for one, count in arounds if count]),
    }
    block = block_of(data, headers, ids)
    return Chunk(rows, block, ids, sizes.tolist(), headers, traces.ids)


def _hex(data: otlp_places.Bytes, at: Places, size: int) -> otlp_places.Bytes:
    """Ids in lowercase hex: a row of ASCII codes each."""
    return _HEX[words_at(data, at, size)].view(np.uint8)


def _fixed(texts: otlp_places.Bytes) -> Pieces:
    """Texts of one length."""
    rows, size = texts.shape
    return [np.concatenate([np.full((rows, 1), size, np.uint8), texts], axis=1).tobytes()]


def _fixed_or_empty(texts: otlp_places.Bytes, is_there: npt.NDArray[np.bool_]) -> Pieces:
    """Texts of one length, or none."""
    rows, size = texts.shape
    cells = np.concatenate([np.full((rows, 1), size, np.uint8), texts], axis=1)
    cells[~is_there, 0] = 0
    kept = np.ones(cells.shape, np.bool_)
    kept[~is_there, 1:] = False
    return [cells[kept].tobytes()]


def _event_ids(headers: Iterable[tuple[Header, int]], traces: otlp_places.Bytes, spans: otlp_places.Bytes) -> bytes:
    """As `batch.event_id` has them, one after the other."""
    rows = len(traces)
    bar, end = np.full((rows, 1), ord("|"), np.uint8), np.tile(np.frombuffer(b"|span", np.uint8), (rows, 1))
    said = np.concatenate([traces, bar, spans, end], axis=1)
    size, flat = said.shape[1], said.tobytes()
    ids: list[bytes] = []
    at = 0
    for header, count in headers:
        hashed = identity(header)
        for _ in range(count):
            one = hashed.copy()
            one.update(flat[at : at + size])
            ids.append(one.digest())
            at += size
    return b"".join(ids)


class _Traces:
    """The traces of a chunk, numbered; an id that two projects use is two of them."""

    def __init__(self, headers: Sequence[tuple[Header, int]], data: otlp_places.Bytes, at: Places, texts: Any) -> None:
        words = words_at(data, at, 16).view("<u8")
        projects = {header.project_id: number for number, (header, _) in enumerate(headers)}
        project = np.repeat([projects[header.project_id] for header, _ in headers], [rows for _, rows in headers])
        order = np.lexsort((words[:, 1], words[:, 0], project))
        ordered = words[order]
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (np.diff(project[order]) != 0) | (ordered[1:] != ordered[:-1]).any(axis=1)
        self.code = np.empty(len(order), np.int64)
        self.code[order] = np.cumsum(begins) - 1
        self.ids = [row.tobytes().decode() for row in texts[order[begins]]]


def _previews(
    said: Said, trace: _Ints, has_parent: npt.NDArray[np.bool_], inputs: Pieces, outputs: Pieces
) -> tuple[Pieces, Pieces]:
    """As `previews.previews`, for spans that all have an end."""
    start, end = said.spans.start_ns.astype(np.int64), said.spans.end_ns.astype(np.int64)
    place = np.arange(len(trace))
    roots, below = np.flatnonzero(~has_parent), np.flatnonzero(has_parent)
    from_start = below[np.lexsort((place[below], -end[below], start[below], trace[below]))]
    from_end = below[np.lexsort((-place[below], -end[below], trace[below]))]
    tops = _first_of_each(from_start, trace)
    with_input = np.array([len(one) > 1 for one in inputs], np.bool_)
    with_output = np.array([len(one) > 1 for one in outputs], np.bool_)
    firsts = _first_of_each(from_start[with_input[from_start]], trace)
    lasts = _first_of_each(from_end[with_output[from_end]], trace)
    return (
        _shortened(inputs, np.concatenate([roots, tops, firsts])),
        _shortened(outputs, np.concatenate([roots, tops, lasts])),
    )


def _first_of_each(ordered: _Ints, trace: _Ints) -> _Ints:
    codes = trace[ordered]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = codes[1:] != codes[:-1]
    return ordered[begins]


def _shortened(texts: Pieces, which: _Ints) -> Pieces:
    """The first characters of ``which`` of the texts, and of others nothing."""
    short = [b"\0"] * len(texts)
    for place in which.tolist():
        text = texts[place]
        if len(text) > PREVIEW_CHARS:
            head = text[: PREVIEW_CHARS * _UTF8_BYTES + native.MAX_VARINT_BYTES]
            text = native.text(native.read_text(head)[:PREVIEW_CHARS])
        short[place] = text
    return short


def _attributes(said: Said, rows: int) -> Pieces:
    """What fills no column, as the client said it."""
    attributes, left = said.attributes, np.flatnonzero(said.is_left)
    buffer = said.spans.buffer
    span, key = attributes.span[left], said.key[left]
    at, form = attributes.text_at[left], attributes.form[left]
    texts = otlp_places.cut(buffer, at, attributes.end[left])
    known: dict[bytes, bytes] = {}
    for place in np.flatnonzero(form != STRING).tolist():
        value = buffer[at[place] - 1 : attributes.end[left[place]]]
        text = known.get(value)
        if text is None:
            text = known[value] = native.text(as_text(read_any(AnyValue.FromString(value))))
        texts[place] = text
    keys = [native.text(key.decode()) for key in said.keys]
    renamed = np.flatnonzero(said.is_renamed)
    if renamed.size:
        keys.append(native.text(_RENAMED))
        texts += otlp_places.cut(buffer, said.spans.name_at[renamed], said.spans.name_end[renamed])
        span = np.concatenate([span, renamed])
        order = np.argsort(span, kind="stable")
        key = np.concatenate([key, np.full(len(renamed), len(keys) - 1)])[order]
        texts = list(map(texts.__getitem__, order.tolist()))
    return native.maps_codes(key, keys, texts, np.bincount(span, minlength=rows))


def _fill_empty(texts: list[bytes], defaults: Iterable[tuple[str, int]]) -> None:
    at = 0
    for default, rows in defaults:
        if default:
            said = native.text(default)
            texts[at : at + rows] = [said if text == b"\0" else text for text in texts[at : at + rows]]
        at += rows
