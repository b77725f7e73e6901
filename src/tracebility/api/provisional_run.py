"""The summary of a run whose spans are stored while its row is not: the worker writes the row a moment later.

The rules are those of `recompute_runs` in ``stores/sql/runs.sql``, but for calls that name each other as parents.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tracebility.stores.scoped import Columns

PREVIEW_CHARS = 200
MODELS, TAGS = 100, 1_000

_CALLS = frozenset({"llm", "embedding", "reranker"})
_TOKENS = ("input_tokens", "output_tokens", "total_tokens")
_OPEN = 1 << 63  # a span that has not ended ends last

_Span = Mapping[str, Any]


def run_of_spans(columns: Columns) -> dict[str, Any]:
    """A row as ``read_run`` has it, from the columns of ``read_run_spans``, which hold at least one span."""
    spans: list[_Span] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    top = min(spans, key=lambda span: (span["parent_span_id"] != "", span["start_ns"], -(span["end_ns"] or _OPEN)))
    failed = [span for span in spans if span["status"] == "error"]
    ends = [span["end_ns"] for span in spans if span["end_ns"] is not None]
    by_end = sorted(spans, key=lambda span: span["end_ns"] or 0, reverse=True)
    is_failed = top["status"] == "error" or (bool(top["parent_span_id"]) and bool(failed) and top["end_ns"] is not None)
    used = _without_repeats(spans, lambda span: any(span[name] for name in _TOKENS))
    paid = _without_repeats(spans, lambda span: span["cost"] is not None)
    return {
        "run_id": top["trace_id"],
        "name": top["name"],
        "kind": top["kind"],
        "status": "error" if is_failed else "running" if top["end_ns"] is None else "ok",
        "error_message": _first("status_message", [top] if top["status"] == "error" else [], failed),
        "start_ns": min(span["start_ns"] for span in spans),
        "end_ns": max(ends, default=None),
        "span_count": len(spans),
        "error_count": len(failed),
        "models": sorted({span["model"] for span in spans if span["kind"] in _CALLS and span["model"]})[:MODELS],
        **{name: sum(span[name] for span in used) for name in _TOKENS},
        "cost": sum(span["cost"] for span in paid) if paid else None,
        "input_preview": _first("inputs", [top], spans)[:PREVIEW_CHARS],
        "output_preview": _first("outputs", [top], by_end)[:PREVIEW_CHARS],
        **{name: _first(name, [top], spans) for name in ("session_id", "user_id", "environment")},
        "tags": sorted({tag for span in spans for tag in span["tags"]})[:TAGS],
    }


def _first(name: str, *groups: Iterable[_Span]) -> str:
    return next((text for group in groups for span in group if (text := span[name])), "")


def _without_repeats(spans: list[_Span], says: Any) -> list[_Span]:
    """The spans whose usage counts: calls, unless a call of their kind below says it too; without calls, others."""
    calls = [span for span in spans if span["kind"] in _CALLS and says(span)]
    if not calls:
        others = [span for span in spans if says(span)]
        ids = {span["span_id"] for span in others}
        return [span for span in others if span["parent_span_id"] not in ids]
    by_id = {span["span_id"]: span for span in spans}
    repeating: set[tuple[str, str]] = set()
    for call in calls:
        above = by_id.get(call["parent_span_id"])
        # A model that is called in a tool is another call. Each span is marked once, so this ends in circles too.
        while above is not None and above["kind"] != "tool" and (above["span_id"], call["kind"]) not in repeating:
            repeating.add((above["span_id"], call["kind"]))
            above = by_id.get(above["parent_span_id"])
    return [call for call in calls if (call["span_id"], call["kind"]) not in repeating]
