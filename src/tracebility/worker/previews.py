"""Previews: the beginnings of inputs and outputs that a run may show. Few spans carry one, because each costs bytes.

A run shows the input and output of its top span, or else the first input and the last output of its spans. The span
that is first (or last) in a whole trace is also first (or last) among the spans of its batch. So only those spans of
each batch carry a preview, and the run is the same however its trace was divided into batches.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracebility.stores import native_format as native
from tracebility.stores.native_format import Pieces

PREVIEW_CHARS = 200

_OPEN = (1 << 63) - 1  # a span that has not ended ends last, as in runs.sql
_UTF8_BYTES = 4  # of a character, at most

_Ints = npt.NDArray[np.int64]


class Order(NamedTuple):
    """Of each span what decides whether it is first or last in its trace."""

    trace: _Ints  # its number; an id that two projects use is two traces
    has_parent: npt.NDArray[np.bool_]
    start_ns: _Ints
    end_ns: _Ints  # 0: it has not ended


def previews(spans: Order, inputs: Pieces, outputs: Pieces) -> tuple[Pieces, Pieces]:
    """``input_preview`` and ``output_preview`` of every span; empty for those that no run would take.

    ``inputs`` and ``outputs`` are cells, as `native_format.text` makes them.
    """
    place = np.arange(len(spans.trace))
    until = np.where(spans.end_ns == 0, _OPEN, spans.end_ns)
    roots, below = np.flatnonzero(~spans.has_parent), np.flatnonzero(spans.has_parent)
    from_start = below[np.lexsort((place[below], -until[below], spans.start_ns[below], spans.trace[below]))]
    from_end = below[np.lexsort((-place[below], -spans.end_ns[below], spans.trace[below]))]
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
    codes = trace[ordered]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = codes[1:] != codes[:-1]
    first: Any = ordered[begins]
    return first  # type: ignore[no-any-return]


def _shortened(texts: Pieces, which: _Ints) -> Pieces:
    """The first characters of ``which`` of the texts, and of others nothing."""
    short = [native.EMPTY_TEXT] * len(texts)
    for place in which.tolist():
        cell = texts[place]
        if len(cell) > PREVIEW_CHARS:
            head = cell[: PREVIEW_CHARS * _UTF8_BYTES + native.MAX_VARINT_BYTES]
            cell = native.text(native.read_text(head)[:PREVIEW_CHARS])
        short[place] = cell
    return short
