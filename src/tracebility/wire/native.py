"""Native runs: parses the JSON of ``POST /v1/runs``, checks each run, and normalizes it.

Unknown fields are not stored, so that a newer client can talk to an older server. The edge names them in warnings,
because most are mistakes.
"""

import re
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tracebility import times
from tracebility.errors import BadRequest, PayloadTooLarge
from tracebility.wire import jsontext, limits
from tracebility.wire.inspection import Inspection, Part
from tracebility.wire.rejection import ItemWarning, Rejection

KINDS = frozenset(
    [
        *("llm", "tool", "retriever", "chain", "agent", "embedding"),
        *("reranker", "guardrail", "evaluator", "parser", "workflow", "task"),
    ]
)

# Accepted spellings of a status, and the status that is stored.
_STATUSES = {"ok": "ok", "success": "ok", "error": "error", "running": "unset", "pending": "unset", "unset": "unset"}
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}")
_NIL = re.compile(r"[0-]+")
_MAX_COST = 10**9  # the column has nine digits before the decimal point


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one model call."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is stored.

    Absent and null texts are empty. ``inputs``, ``outputs`` and values of ``metadata`` are plain text if the client
    sent a string, else JSON text.
    """

    id: str
    trace_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int  # 0: not ended
    status: str  # "ok" | "error" | "unset"
    inputs: str
    outputs: str
    error: str
    error_type: str
    model: str
    provider: str
    usage: Usage | None
    cost: Decimal | None
    session_id: str
    user_id: str
    tags: tuple[str, ...]
    metadata: dict[str, str]
    size: int  # bytes as received


def decode_runs(body: bytes) -> list[Run | Rejection]:
    """Decode the runs of ``body`` (one run, or ``{"runs": [...]}``) in order; invalid ones as rejections.

    A child with a parent but without a trace gets the trace of its topmost ancestor in this body.

    Raises:
        BadRequest: when ``body`` is not JSON, or not an object.
        PayloadTooLarge: when it holds too many runs.
    """
    return _with_traces([_run(index, raw) for index, raw in enumerate(_raw_runs(body)[0])])


def _raw_runs(body: bytes) -> tuple[list[Raw], list[str]]:
    """The JSON text of each run of ``body``, and the names of unknown fields of the request."""
    body = jsontext.repair(body)
    unknown: list[str] = []
    try:
        try:
            batch: _Batch = jsontext.decode(body, _decode_exact_batch)
        except msgspec.ValidationError:
            batch = jsontext.decode(body, _decode_batch)
            if batch.runs is UNSET:
                return [Raw(body.strip())], []
            unknown = _unknown(body, _Batch)
        if batch.runs is UNSET:
            return [Raw(body.strip())], []
        runs = bytes(batch.runs)
        jsontext.check_values(runs, limits.ITEMS, "runs")
        return _bounded(jsontext.decode(runs, _decode_list)), unknown
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"The body is not a run and not a list of runs: {jsontext.error_text(error)}.",
            hint='Send one run, or {"runs": [run, ...]}.',
        ) from error


def inspect(body: bytes) -> Inspection:
    """Decide which runs of ``body`` are accepted. A large body is split between runs into parts.

    Raises:
        BadRequest: when ``body`` is not JSON, or not an object.
        PayloadTooLarge: when it holds too many runs.
    """
    raws, unknown = _raw_runs(body)
    warnings = _Warnings(unknown)
    sent = [_run(index, raw, warnings) for index, raw in enumerate(raws)]
    if len(body) <= limits.ENVELOPE_BYTES:
        return _whole(sent, warnings)
    refused: list[Rejection] = []
    parts: list[Part] = []
    members: list[bytes] = []
    size = 0
    for index, (raw, before, run) in enumerate(zip(raws, sent, _with_traces(sent), strict=True)):
        if isinstance(run, Rejection):
            refused.append(run)
            continue
        text = bytes(raw)
        if isinstance(before, Run) and not before.trace_id:
            # The worker could not find the trace of a child whose parent is in another part.
            text = b'%b,"trace_id":"%b"}' % (text.rstrip()[:-1], run.trace_id.encode())
            if len(text) > limits.ITEM_BYTES:  # otherwise the worker would reject an accepted run
                refused.append(Rejection(index, _too_large(len(text))))
                continue
        if members and size + len(text) > limits.ENVELOPE_BYTES:
            parts.append(_part(members))
            members, size = [], 0
        members.append(text)
        size += len(text)
    if members:
        parts.append(_part(members))
    return Inspection(len(sent) - len(refused), refused, tuple(parts), warnings.listed())


def inspect_inline(body: bytes) -> Inspection | None:
    """As `inspect`, for a body of one envelope; None as soon as it proves too slow for the event loop.

    Raises:
        BadRequest, PayloadTooLarge: as `inspect`.
    """
    sent: list[Run | Rejection] = []
    refused = 0
    raws, unknown = _raw_runs(body)
    warnings = _Warnings(unknown)
    for index, raw in enumerate(raws):
        sent.append(_run(index, raw, warnings))
        refused += isinstance(sent[-1], Rejection)
        if refused > limits.REJECTIONS_NAMED or warnings.count > limits.REJECTIONS_NAMED:
            return None
    return _whole(sent, warnings)


def _whole(runs: list[Run | Rejection], warnings: "_Warnings") -> Inspection:
    refused = [run for run in runs if isinstance(run, Rejection)]
    return Inspection(len(runs) - len(refused), refused, warnings=warnings.listed())


def _part(runs: list[bytes]) -> Part:
    return Part(b'{"runs":[%b]}' % b",".join(runs), len(runs))


def _bounded(runs: list[Raw]) -> list[Raw]:
    if len(runs) > limits.ITEMS:
        raise PayloadTooLarge(f"The body holds more than {limits.ITEMS} runs.", hint="Send fewer a request.")
    return runs


def _run(index: int, raw: Raw, warnings: "_Warnings | None" = None) -> Run | Rejection:
    text = bytes(raw)
    try:
        if len(text) > limits.ITEM_BYTES:
            raise _InvalidValue(_too_large(len(text)))
        if jsontext.is_deeper(text, limits.JSON_DEPTH):
            raise _InvalidValue(f"arrays and objects are nested more than {limits.JSON_DEPTH} deep")
        sent = _decode_sent(text) if warnings is None else _decoded(index, text, warnings)
        return _normalized(sent, len(text))
    except msgspec.ValidationError as error:
        return Rejection(index, jsontext.error_text(error))
    except UnicodeDecodeError as error:
        return Rejection(index, f"a string is not UTF-8: {error.reason}")
    except (_InvalidValue, times.InvalidTime, msgspec.DecodeError) as error:
        return Rejection(index, str(error))


def _decoded(index: int, text: bytes, warnings: "_Warnings") -> "_Sent":
    """Decode a run, and add its unknown fields to ``warnings``."""
    try:
        sent: _Sent = _decode_exact_sent(text)
    except msgspec.ValidationError:
        sent = _decode_sent(text)  # raises if more than unknown fields is wrong
        warnings.unknown(index, _unknown(text, _Sent))
    if sent.usage and not sent.usage.keys() <= _USAGE_FIELDS:
        warnings.unknown(index, [f"usage.{name}" for name in sent.usage if name not in _USAGE_FIELDS])
    return sent


def _unknown(text: bytes, kind: type[msgspec.Struct]) -> list[str]:
    """The keys of the object ``text`` that are not fields of ``kind``."""
    return [name for name in jsontext.decode(text, _decode_members) if name not in kind.__struct_fields__]


class _Warnings:
    """Warnings about unknown fields of a request. The first ones are named, the others counted."""

    def __init__(self, unknown_beside_runs: list[str]) -> None:
        self.count = 0
        self._named: list[ItemWarning] = []
        self.unknown(None, unknown_beside_runs)

    def unknown(self, index: int | None, names: list[str]) -> None:
        """Add unknown fields of the run at ``index``, or of the request (None)."""
        for name in names:
            self.count += 1
            if self.count <= limits.REJECTIONS_NAMED:
                suggestion = _SUGGESTIONS.get(name)
                hint = f"; did you mean '{suggestion}'?" if suggestion else ""
                self._named.append(ItemWarning(f"unknown field '{name[:_SHOWN_CHARS]}' is not stored{hint}", index))

    def listed(self) -> tuple[ItemWarning, ...]:
        """The warnings for the answer."""
        more = self.count - len(self._named)
        return (*self._named, ItemWarning(f"{more} more unknown fields are not stored")) if more else (*self._named,)


_SHOWN_CHARS = 60  # of an unknown field's name
_USAGE_FIELDS = frozenset(Usage.__struct_fields__)
# Names of our fields in other formats.
_SUGGESTIONS = {
    "input": "inputs", "output": "outputs", "prompt": "inputs", "completion": "outputs", "response": "outputs",
    "parent_run_id": "parent_id", "parent_span_id": "parent_id", "span_id": "id", "run_id": "id",
    "run_type": "kind", "type": "kind", "span_kind": "kind", "model_name": "model", "user": "user_id",
    "session": "session_id", "thread_id": "session_id", "conversation_id": "session_id", "start": "start_time",
    "end": "end_time", "exception": "error", "attributes": "metadata", "extra": "metadata", "tag": "tags",
    "prompt_tokens": "usage.input_tokens", "completion_tokens": "usage.output_tokens",
    "input_tokens": "usage.input_tokens", "output_tokens": "usage.output_tokens", "run": "runs",
    "usage.prompt_tokens": "usage.input_tokens", "usage.completion_tokens": "usage.output_tokens",
    "usage.input": "usage.input_tokens", "usage.output": "usage.output_tokens",
    "usage.cached_tokens": "usage.cache_read_tokens", "usage.cache_read_input_tokens": "usage.cache_read_tokens",
    "usage.cache_creation_input_tokens": "usage.cache_write_tokens",
    "usage.total_tokens": "usage.input_tokens and usage.output_tokens",
}  # fmt: skip


def _too_large(size: int) -> str:
    return f"the run is {size} bytes with its trace, more than {limits.ITEM_BYTES >> 20} MiB"


class _InvalidValue(ValueError):
    """A value has the right type but cannot be stored. The text is the reason for the client."""


class _Batch(msgspec.Struct, frozen=True):
    runs: Raw | UnsetType = UNSET


class _ExactBatch(_Batch, frozen=True, forbid_unknown_fields=True):
    """A batch without unknown fields."""


class _Sent(msgspec.Struct, frozen=True):
    """A run as the client sent it."""

    id: str
    name: str
    kind: str
    start_time: str | int | float
    trace_id: str | None = None
    parent_id: str | None = None
    end_time: str | int | float | None = None
    status: str | None = None
    inputs: Raw = Raw()
    outputs: Raw = Raw()
    error: Raw = Raw()
    model: str | None = None
    provider: str | None = None
    usage: dict[str, Any] | None = None
    cost: Decimal | None = None
    session_id: str | int | None = None
    user_id: str | int | None = None
    tags: list[str] | None = None
    metadata: dict[str, Raw] | None = None


class _ExactSent(_Sent, frozen=True, forbid_unknown_fields=True):
    """A run without unknown fields."""


class _Error(msgspec.Struct, frozen=True):
    message: str | None = None
    type: str | None = None


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_exact_batch = msgspec.json.Decoder(_ExactBatch).decode
_decode_exact_sent = msgspec.json.Decoder(_ExactSent).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_sent = msgspec.json.Decoder(_Sent).decode
_decode_string = msgspec.json.Decoder(str).decode
_decode_error = msgspec.json.Decoder(_Error).decode


def _normalized(sent: _Sent, size: int) -> Run:
    parent_id = _id("parent_id", sent.parent_id) if sent.parent_id else ""
    trace_id = _id("trace_id", sent.trace_id) if sent.trace_id else ""
    run_id = _id("id", sent.id)
    if parent_id == run_id:
        raise _InvalidValue("parent_id: a run cannot be its own parent")
    kind = sent.kind.lower()
    if kind not in KINDS:
        raise _InvalidValue(f"kind: {sent.kind[:40]!r} is none of {', '.join(sorted(KINDS))}")
    tags = tuple(_label("tags", tag) for tag in sent.tags or ())
    metadata = sent.metadata or {}
    if len(tags) > limits.TAGS:
        raise _InvalidValue(f"tags: {len(tags)}, more than {limits.TAGS}")
    if len(metadata) > limits.ATTRIBUTES:
        raise _InvalidValue(f"metadata: {len(metadata)} keys, more than {limits.ATTRIBUTES}")
    error, error_type = _error(sent.error)
    end_ns = _time("end_time", sent.end_time) if sent.end_time is not None else 0
    return Run(
        id=run_id,
        trace_id=trace_id,
        parent_id=parent_id,
        name=_text("name", sent.name, limits.NAME_CHARS),
        kind=kind,
        start_ns=_time("start_time", sent.start_time),
        end_ns=end_ns,
        status=_status(sent.status, failed=bool(error or error_type), ended=end_ns > 0),
        inputs=_plain(sent.inputs),
        outputs=_plain(sent.outputs),
        error=error,
        error_type=error_type,
        model=_label("model", sent.model),
        provider=_label("provider", sent.provider),
        usage=_usage(sent.usage),
        cost=_cost(sent.cost),
        session_id=_label("session_id", sent.session_id),
        user_id=_label("user_id", sent.user_id),
        tags=tags,
        metadata={_label("metadata", key): _plain(value) for key, value in metadata.items()},
        size=size,
    )


def _id(field: str, value: str) -> str:
    """An id in lower case. UUIDs (RFC 9562) and OTLP's hex ids may be sent in either case."""
    if _UUID.fullmatch(value) is None and _HEX.fullmatch(value) is None:
        raise _InvalidValue(f"{field}: {value[:40]!r} is not an id: send a UUID, or 16 or 32 hex digits")
    value = value.lower()
    if _NIL.fullmatch(value):
        raise _InvalidValue(f"{field}: all zeros name nothing")
    return value


def _text(field: str, value: str, max_chars: int) -> str:
    if len(value) > max_chars:
        raise _InvalidValue(f"{field}: {len(value)} characters, more than {max_chars}")
    return value


def _label(field: str, value: str | int | None) -> str:
    return "" if value is None else _text(field, str(value), limits.LABEL_CHARS)


def _time(field: str, value: str | int | float) -> int:
    try:
        return times.from_client(value)
    except times.InvalidTime as error:
        raise times.InvalidTime(f"{field}: {error}") from error


def _status(value: str | None, *, failed: bool, ended: bool) -> str:
    if value:
        try:
            return _STATUSES[value.lower()]
        except KeyError:
            raise _InvalidValue(f"status: {value[:40]!r} is none of {', '.join(_STATUSES)}") from None
    return "error" if failed else "ok" if ended else "unset"


def _usage(sent: dict[str, Any] | None) -> Usage | None:
    if sent is None:
        return None
    return Usage(**{field: _count(field, sent.get(field)) for field in Usage.__struct_fields__})


def _count(field: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise _InvalidValue(f"usage.{field}: {str(value)[:40]!r} is not a whole number")
    if not 0 <= value <= limits.MAX_COUNT:
        raise _InvalidValue(f"usage.{field}: {str(value)[:40]} is not between 0 and 2^63")
    return int(value)


def _cost(cost: Decimal | None) -> Decimal | None:
    if cost is not None and not (cost.is_finite() and 0 <= cost < _MAX_COST):
        raise _InvalidValue(f"cost: {cost} is not between 0 and 10^9 US dollars")
    return cost


def _plain(raw: Raw) -> str:
    """A string's text, or the JSON text of any other value; empty for null."""
    text = bytes(raw)
    if not text or text == b"null":
        return ""
    return _decode_string(text) if text[:1] == b'"' else str(text, "utf-8")


def _error(raw: Raw) -> tuple[str, str]:
    text = bytes(raw)
    if text[:1] != b"{":
        return _plain(raw), ""
    try:
        error = _decode_error(text)
    except msgspec.ValidationError:
        return _plain(raw), ""
    return error.message or (_plain(raw) if error.type is None else ""), _label("error.type", error.type)


def _with_traces(runs: list[Run | Rejection]) -> list[Run | Rejection]:
    """Set missing trace ids: a root's is its own id, a child's that of its topmost ancestor in ``runs``."""
    if all(isinstance(run, Rejection) or run.trace_id for run in runs):
        return runs
    by_id = {run.id: run for run in runs if isinstance(run, Run)}
    traces: dict[str, str] = {}
    return [
        msgspec.structs.replace(run, trace_id=_trace_of(run.parent_id, by_id, traces) if run.parent_id else run.id)
        if isinstance(run, Run) and not run.trace_id
        else run
        for run in runs
    ]


def _trace_of(run_id: str, by_id: dict[str, Run], traces: dict[str, str]) -> str:
    """The trace of ``run_id``. ``traces`` caches results, so that a long chain of parents is walked once."""
    visited: dict[str, int] = {}
    while run_id not in traces:
        run = by_id.get(run_id)
        if run is None or run.trace_id or not run.parent_id:
            traces[run_id] = run_id if run is None else run.trace_id or run_id
        elif run_id in visited:
            traces[run_id] = min(list(visited)[visited[run_id] :])  # a cycle of parents: one trace for all of them
        else:
            visited[run_id] = len(visited)
            run_id = run.parent_id
    trace_id = traces[run_id]
    traces.update(dict.fromkeys(visited, trace_id))
    return trace_id
