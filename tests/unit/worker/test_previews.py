"""A run's first input and last output are the same however its spans were cut into batches."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracebility.stores import native_format as native
from tracebility.worker.previews import PREVIEW_CHARS, Order, previews

TEXTS = st.sampled_from(["", "a question", "é" * (PREVIEW_CHARS + 50)])
Span = tuple[str, int, int | None, str, str]


def previews_of(spans: list[Span], traces: list[int] | None = None) -> tuple[list[str], list[str]]:
    order = Order(
        np.array(traces or [0] * len(spans), np.int64),
        np.array([parent != "" for parent, *_ in spans], np.bool_),
        np.array([start for _, start, *_ in spans], np.int64),
        np.array([end or 0 for _, _, end, *_ in spans], np.int64),
    )
    inputs, outputs = ([native.text(span[field]) for span in spans] for field in (3, 4))
    first, last = previews(order, inputs, outputs)
    return list(map(native.read_text, first)), list(map(native.read_text, last))


def chosen(spans: list[Span], inputs: list[str], outputs: list[str]) -> tuple[str, str]:
    """What runs.sql takes, given what each span carries."""
    places = range(len(spans))
    top = min(places, key=lambda i: (spans[i][0] != "", spans[i][1], -(spans[i][2] or 1 << 63)))
    said = [i for i in places if inputs[i]]
    answered = [i for i in places if outputs[i] and spans[i][2] is not None]
    first = inputs[min(said, key=lambda i: (spans[i][1], -(spans[i][2] or 1 << 63)))] if said else ""
    last = outputs[max(answered, key=lambda i: spans[i][2] or 0)] if answered else ""
    return inputs[top] or first, outputs[top] or last


@st.composite
def traces(draw: st.DrawFn) -> list[Span]:
    """Spans of one trace, no two of which begin or end together."""
    count = draw(st.integers(1, 8))
    starts = draw(st.permutations(range(1, count + 1)))
    ends = draw(st.permutations(range(100, 100 + count)))
    root = draw(st.integers(-1, count - 1))
    return [
        ("" if i == root else "parent", starts[i], draw(st.sampled_from([ends[i], ends[i], None])),
         draw(TEXTS), draw(TEXTS))
        for i in range(count)
    ]  # fmt: skip


@given(traces(), st.integers(1, 7))
def test_however_a_trace_is_cut_its_run_takes_the_same_texts(spans: list[Span], cut: int) -> None:
    whole = chosen(spans, [s[3][:PREVIEW_CHARS] for s in spans], [s[4][:PREVIEW_CHARS] for s in spans])
    inputs: list[str] = []
    outputs: list[str] = []
    for part in (spans[:cut], spans[cut:]):
        ins, outs = previews_of(part)
        inputs += ins
        outputs += outs
    assert chosen(spans, inputs, outputs) == whole


def test_few_spans_of_a_long_trace_carry_a_preview() -> None:
    spans: list[Span] = [("p", i, i + 1, "question", "answer") for i in range(100)]
    inputs, outputs = previews_of(spans)
    assert len([text for text in inputs if text]) == 1
    assert len([text for text in outputs if text]) == 2


def test_projects_with_the_same_trace_id_do_not_take_each_others_place() -> None:
    spans: list[Span] = [("p", 1, 2, "question", "answer")]
    assert previews_of([*spans, *spans], [1, 2]) == (["question", "question"], ["answer", "answer"])
