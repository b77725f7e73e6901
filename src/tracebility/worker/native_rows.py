"""Native runs to rows: what a client of ``POST /v1/runs`` said, by the columns that OTLP spans fill."""

from decimal import Decimal

from tracebility.wire import native
from tracebility.wire.conventions import MAX_COST_NANODOLLARS, MAX_TOKENS, MODEL_KINDS
from tracebility.wire.envelope import Header, MalformedEnvelope
from tracebility.wire.limits import MESSAGE_CHARS
from tracebility.wire.rejection import Rejection
from tracebility.worker.batch import Batch, Resource, identity
from tracebility.worker.usage import settle

_NANODOLLARS = Decimal(10**9)
_NO_USAGE = native.Usage()


def add_runs(batch: Batch, header: Header, body: bytes) -> None:
    """Add a row for every run of ``body`` that the edge accepted.

    Raises:
        MalformedEnvelope: when one of them cannot be read here: it was accepted, so it may not get lost.
    """
    rejected = frozenset(header.rejected)
    hashed = identity(header)
    rows = 0
    for position, run in enumerate(native.decode_runs(body)):
        if position in rejected:
            continue
        if isinstance(run, Rejection):
            raise MalformedEnvelope(f"run {position} was accepted and cannot be read: {run.error}")
        rows += 1
        usage = run.usage or _NO_USAGE
        batch.tags += run.tags
        batch.metadata_keys += run.metadata
        batch.metadata_values += run.metadata.values()
        is_long = len(run.error) > MESSAGE_CHARS
        if is_long:
            batch.attribute_keys.append("error")
            batch.attribute_values.append(run.error)
        event_hash = hashed.copy()
        event_hash.update(f"{run.trace_id}|{run.id}|span".encode())
        batch.rows.append(
            (
                run.trace_id,
                run.id,
                run.parent_id,
                run.name,
                run.kind,
                "",
                run.start_ns,
                max(run.end_ns, run.start_ns) if run.end_ns else None,
                run.status,
                run.error[:MESSAGE_CHARS],
                run.error_type,
                run.model if run.kind in MODEL_KINDS else "",
                run.model,
                run.provider,
                *settle(
                    batch.prices,
                    run.kind,
                    run.provider,
                    run.model,
                    run.start_ns,
                    [
                        _count(usage.input_tokens),
                        _count(usage.output_tokens),
                        None,
                        _count(usage.cache_read_tokens),
                        _count(usage.cache_write_tokens),
                        _count(usage.reasoning_tokens),
                        None if run.cost is None else min(int(run.cost * _NANODOLLARS), MAX_COST_NANODOLLARS),
                        None,
                        None,
                    ],
                ),
                0,
                run.inputs,
                run.outputs,
                run.session_id,
                run.user_id,
                len(run.tags),
                len(run.metadata),
                int(is_long),
                "",
                "",
                "",
                "",
                "",
                event_hash.digest(),
                run.size,
            )
        )
    if rows:
        batch.resources.append(Resource((), (), rows))


def _count(tokens: int | None) -> int | None:
    return None if tokens is None else min(tokens, MAX_TOKENS)
