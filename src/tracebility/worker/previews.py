"""Previews: the first characters of inputs and outputs, for the spans that may provide the preview of their run.

A run shows the input and output of its top span, or else the first input and the last output of its spans. The first
(or last) span of a whole trace is also the first (or last) one of its batch. So only those spans of each batch need a
preview, however the trace was divided into batches. All others save the bytes.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Pieces

PREVIEW_CHARS = 200

_NOT_ENDED = (1 << 63) - 1  # a span without an end sorts last, as in runs.sql
_MAX_UTF8_BYTES = 4  # of one character

_Ints = npt.NDArray[np.int64]


class Order(NamedTuple):
    """The fields that decide which span is the first or last of its trace, an array element for each span."""

    trace: _Ints  # number of the trace; the same trace id in two projects means two traces
    has_parent: npt.NDArray[np.bool_]
    start_ns: _Ints
    end_ns: _Ints  # 0: not ended


def previews(spans: Order, inputs: Pieces, outputs: Pieces) -> tuple[Pieces, Pieces]:
    """``input_preview`` and ``output_preview`` of each span; empty for spans that no run takes its preview from.

    ``inputs`` and ``outputs`` are cells of Native format.
    """
    position = np.arange(len(spans.trace))
    until = np.where(spans.end_ns == 0, _NOT_ENDED, spans.end_ns)
    roots, below = np.flatnonzero(~spans.has_parent), np.flatnonzero(spans.has_parent)
    from_start = below[np.lexsort((position[below], -until[below], spans.start_ns[below], spans.trace[below]))]
    from_end = below[np.lexsort((-position[below], -spans.end_ns[below], spans.trace[below]))]
    tops = _first_of_each(from_start, spans.trace)
    with_input = np.array([len(one) > 1 for one in inputs], np.bool_)
    with_output = np.array([len(one) > 1 for one in outputs], np.bool_)
    firsts = _first_of_each(from_start[with_input[from_start]], spans.trace)
    lasts = _first_of_each(from_end[with_output[from_end]], spans.trace)
    return (
        _shortened(inputs, np.concatenate([roots, tops, firsts])),
        _shortened(outputs, np.concatenate([roots, tops, lasts])),
    )


def _first_of_each(ordered: _Ints, trace: _Ints) -> _Ints:
    """The first span of each trace. ``ordered``: positions of spans, sorted by trace first."""
    traces = trace[ordered]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = traces[1:] != traces[:-1]
    first: Any = ordered[begins]
    return first  # type: ignore[no-any-return]


def _shortened(texts: Pieces, positions: _Ints) -> Pieces:
    """The first `PREVIEW_CHARS` characters of the texts at ``positions``; empty texts elsewhere."""
    short = [native.EMPTY_TEXT] * len(texts)
    for position in positions.tolist():
        cell = texts[position]
        if len(cell) > PREVIEW_CHARS:
            head = cell[: PREVIEW_CHARS * _MAX_UTF8_BYTES + native.MAX_VARINT_BYTES]
            cell = native.text(native.read_text(head)[:PREVIEW_CHARS])
        short[position] = cell
    return short
