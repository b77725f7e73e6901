"""Maps native runs (``POST /v1/runs``) to rows of `span`."""

from decimal import Decimal
from typing import Any

from tracebility.wire import native
from tracebility.wire.conventions import MAX_COST_NANODOLLARS, MAX_TOKENS, MODEL_KINDS
from tracebility.wire.envelope import Header, MalformedEnvelope
from tracebility.wire.limits import MESSAGE_CHARS
from tracebility.wire.pricing import PriceTable
from tracebility.wire.rejection import Rejection
from tracebility.worker.batch import Batch, identity
from tracebility.worker.usage import settle

_NANODOLLARS = Decimal(10**9)
_NO_USAGE = native.Usage()
# The columns that `settle` returns, in its order.
_SETTLED = (
    "input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
    "cost", "cost_source",
)  # fmt: skip


def add_runs(batch: Batch, header: Header, body: bytes) -> int:
    """Add a row for each run of ``body`` that the edge accepted, and return their number.

    Raises:
        MalformedEnvelope: when an accepted run cannot be read: it must not be dropped silently.
    """
    rejected = frozenset(header.rejected)
    hashed = identity(header)
    before = len(batch.runs)
    for position, run in enumerate(native.decode_runs(body)):
        if position in rejected:
            continue
        if isinstance(run, Rejection):
            raise MalformedEnvelope(f"run {position} was accepted and cannot be read: {run.error}")
        event_hash = hashed.copy()
        event_hash.update(f"{run.trace_id}|{run.id}|span".encode())
        batch.runs.append(_row(batch.prices, run) | {"event_id": event_hash.digest()})
        batch.sizes.append(run.size)
    added = len(batch.runs) - before
    if added:
        batch.envelopes.append((header, added))
    return added


def _row(prices: PriceTable, run: native.Run) -> dict[str, Any]:
    usage = run.usage or _NO_USAGE
    sent = [
        _count(usage.input_tokens),
        _count(usage.output_tokens),
        None,
        _count(usage.cache_read_tokens),
        _count(usage.cache_write_tokens),
        _count(usage.reasoning_tokens),
        None if run.cost is None else min(int(run.cost * _NANODOLLARS), MAX_COST_NANODOLLARS),
        None,
        None,
    ]
    settled = settle(prices, run.kind, run.provider, run.model, run.start_ns, sent)
    return dict(zip(_SETTLED, settled, strict=True)) | {
        "trace_id": run.trace_id,
        "span_id": run.id,
        "parent_span_id": run.parent_id,
        "name": run.name,
        "kind": run.kind,
        "start_time": run.start_ns,
        "end_time": max(run.end_ns, run.start_ns) if run.end_ns else None,
        "status": run.status,
        "status_message": run.error[:MESSAGE_CHARS],
        "error_type": run.error_type,
        "model": run.model if run.kind in MODEL_KINDS else "",
        "request_model": run.model,
        "provider": run.provider,
        "inputs": run.inputs,
        "outputs": run.outputs,
        "session_id": run.session_id,
        "user_id": run.user_id,
        "tags": run.tags,
        "metadata": run.metadata,
        "attributes": {"error": run.error} if len(run.error) > MESSAGE_CHARS else {},
    }


def _count(tokens: int | None) -> int | None:
    return None if tokens is None else min(tokens, MAX_TOKENS)
