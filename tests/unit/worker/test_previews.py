"""A run's first input and last output are the same however its spans were cut into batches."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tracebility.wire.conventions import RuleTable
from tracebility.wire.envelope import Header
from tracebility.wire.pricing import PriceTable
from tracebility.worker.batch import Batch, Row
from tracebility.worker.previews import PREVIEW_CHARS, previews

TEXTS = st.sampled_from(["", "a question", "x" * (PREVIEW_CHARS + 50)])
Span = tuple[str, int, int | None, str, str]


def header(project: int) -> Header:
    tenant = {name: UUID(int=project) for name in ("id", "org_id", "workspace_id", "project_id")}
    return Header(
        **tenant, key_id="k", accepted_at_us=1, period="2026-11", source="otlp", content_type="protobuf",
        content_encoding="identity", items=1, bytes=1,
    )  # fmt: skip


def batch_of(*envelopes: tuple[int, list[Span]]) -> Batch:
    batch = Batch(RuleTable(), PriceTable())
    for project, spans in envelopes:
        for parent, start, end, inputs, outputs in spans:
            fields = dict.fromkeys(Row._fields, "") | {
                "trace_id": "t", "parent_span_id": parent, "start_ns": start, "end_ns": end, "inputs": inputs,
                "outputs": outputs,
            }  # fmt: skip
            batch.rows.append(tuple(fields[name] for name in Row._fields))
        batch.envelopes.append((header(project), len(spans)))
    return batch


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
        ins, outs = previews(batch_of((1, part)))
        inputs += ins
        outputs += outs
    assert chosen(spans, inputs, outputs) == whole


def test_few_spans_of_a_long_trace_carry_a_preview() -> None:
    spans: list[Span] = [("p", i, i + 1, "question", "answer") for i in range(100)]
    inputs, outputs = previews(batch_of((1, spans)))
    assert len([text for text in inputs if text]) == 1
    assert len([text for text in outputs if text]) == 2


def test_projects_with_the_same_trace_id_do_not_take_each_others_place() -> None:
    spans: list[Span] = [("p", 1, 2, "question", "answer")]
    assert previews(batch_of((1, spans), (2, spans))) == (["question", "question"], ["answer", "answer"])
