"""The texts from which a run takes its first input and its last output: of few spans only, since each costs bytes.

A run takes them from its top span, or from the first span that has an input and the last that has an output. Whichever
span that is in the whole trace, it is so among those of its own batch too; so of a batch only these carry a preview,
and it does not matter how a trace was cut into batches.
"""

from uuid import UUID

from tracebility.worker.batch import Batch, Row

# By trace id: what says which comes first or last, and the row's place in the batch at its end.
_Places = dict[str, tuple[int, ...]]

PREVIEW_CHARS = 200

_TRACE, _PARENT = Row._fields.index("trace_id"), Row._fields.index("parent_span_id")
_START, _END = Row._fields.index("start_ns"), Row._fields.index("end_ns")
_INPUTS, _OUTPUTS = Row._fields.index("inputs"), Row._fields.index("outputs")
_OPEN = 1 << 63  # a span that has not ended ends last, as in runs.sql


def previews(batch: Batch) -> tuple[list[str], list[str]]:
    """``input_preview`` and ``output_preview`` of every row of the batch; empty for those that no run would take."""
    rows = batch.rows
    inputs, outputs = [""] * len(rows), [""] * len(rows)
    at = 0
    projects: dict[UUID, tuple[_Places, _Places, _Places]] = {}
    for header, count in batch.envelopes:
        tops, firsts, lasts = projects.setdefault(header.project_id, ({}, {}, {}))
        for place in range(at, at + count):
            row = rows[place]
            trace, end = row[_TRACE], row[_END]
            if not row[_PARENT]:
                inputs[place], outputs[place] = row[_INPUTS][:PREVIEW_CHARS], row[_OUTPUTS][:PREVIEW_CHARS]
                continue
            begin = (row[_START], -(_OPEN if end is None else end), place)
            if trace not in tops or begin < tops[trace]:
                tops[trace] = begin
            if row[_INPUTS] and (trace not in firsts or begin < firsts[trace]):
                firsts[trace] = begin
            if row[_OUTPUTS] and (trace not in lasts or (end or 0, place) > lasts[trace]):
                lasts[trace] = (end or 0, place)
        at += count
    for tops, firsts, lasts in projects.values():
        for *_, place in (*tops.values(), *firsts.values()):
            inputs[place] = rows[place][_INPUTS][:PREVIEW_CHARS]
        for *_, place in (*tops.values(), *lasts.values()):
            outputs[place] = rows[place][_OUTPUTS][:PREVIEW_CHARS]
    return inputs, outputs
