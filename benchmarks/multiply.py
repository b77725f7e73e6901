"""Copies thousands of real spans to millions inside the engine, with new ids, tenants, times and run rows."""

from itertools import count
from uuid import uuid4

from clickhouse_connect.driver.client import Client

OTHER_TENANTS = 200
SPREAD_S = 7 * 86_400
STEP_SPANS = 200_000  # an INSERT SELECT of this many rows of 2 KB stays well within the engine's memory bound

_SETTINGS = {"max_insert_threads": 1, "max_threads": 2, "max_block_size": 8192}

# Copies every row of the seed, with ids derived from its own and {copy}. Values shared by a trace are derived from the
# trace id: its tenant (the own one or one of {others}) and its time.
_COPY = """
    INSERT INTO span (COLUMNS)
    WITH
        sipHash64(s.trace_id, {copy:UInt64}) AS drawn,
        toInt64(intDiv(drawn, 1000) % {spread:UInt64}) AS earlier,
        if({others:UInt32} = 0, 0, drawn % {others:UInt32}) AS tenant
    SELECT s.* REPLACE (
        if({others:UInt32} = 0, {org:UUID}, reinterpretAsUUID(sipHash128('org', tenant))) AS org_id,
        if({others:UInt32} = 0, {workspace:UUID}, reinterpretAsUUID(sipHash128('workspace', tenant))) AS workspace_id,
        if({others:UInt32} = 0, {project:UUID}, reinterpretAsUUID(sipHash128('project', tenant))) AS project_id,
        lower(hex(sipHash128(s.trace_id, {copy:UInt64}))) AS trace_id,
        lower(hex(sipHash64(s.span_id, {copy:UInt64}))) AS span_id,
        if(s.parent_span_id = '', '', lower(hex(sipHash64(s.parent_span_id, {copy:UInt64})))) AS parent_span_id,
        subtractSeconds(s.start_time, earlier) AS start_time,
        subtractSeconds(s.end_time, earlier) AS end_time,
        subtractSeconds(s.accepted_at, earlier) AS accepted_at,
        {batch:UUID} AS envelope_id,
        reinterpretAsUUID(sipHash128(s.span_id, {copy:UInt64}, 'event')) AS event_id
    )
    FROM (SELECT * FROM bench_seed LIMIT {rows:UInt64}) AS s
"""
_ONE_TRACE = """
    INSERT INTO span (COLUMNS)
    SELECT s.* REPLACE (
        {trace:String} AS trace_id,
        lower(hex(sipHash64(s.span_id, {trace:String}))) AS span_id,
        if(rowNumberInAllBlocks() = 0, '', {root:String}) AS parent_span_id,
        {batch:UUID} AS envelope_id,
        reinterpretAsUUID(sipHash128(s.span_id, {trace:String}, 'event')) AS event_id
    )
    FROM (SELECT * FROM bench_seed ORDER BY span_id LIMIT {rows:UInt64}) AS s
    SETTINGS max_threads = 1
"""
_ROOT_OF_ONE_TRACE = """
    SELECT lower(hex(sipHash64(span_id, {trace:String}))) FROM bench_seed ORDER BY span_id LIMIT 1
"""
_RUNS = """
    INSERT INTO run (
        org_id, workspace_id, project_id, run_id, name, kind, status, start_time, end_time, root_span_id, span_count,
        error_count, models, input_tokens, output_tokens, total_tokens, cost, input_preview, output_preview, session_id,
        user_id, environment, accepted_at, version
    )
    SELECT
        org_id, any(workspace_id), project_id, trace_id, argMin(name, parent_span_id), argMin(kind, parent_span_id),
        argMin(if(status = 'error', 'error', 'ok'), parent_span_id), min(start_time), max(end_time),
        argMin(span_id, parent_span_id), count(), countIf(status = 'error'), groupUniqArrayIf(model, model != ''),
        sumIf(input_tokens, kind = 'llm'), sumIf(output_tokens, kind = 'llm'), sumIf(total_tokens, kind = 'llm'),
        sumIf(cost, kind = 'llm'), argMin(leftUTF8(inputs, 200), start_time), argMax(leftUTF8(outputs, 200), end_time),
        any(session_id), any(user_id), any(environment), min(accepted_at), max(version)
    FROM span
    WHERE envelope_id = {batch:UUID}
    GROUP BY org_id, project_id, trace_id
"""


class Multiplier:
    """Grows the data of one tenant and of other tenants."""

    def __init__(self, engine: Client, org_id: str, workspace_id: str, project_id: str) -> None:
        self._engine = engine
        self._own = {"org": org_id, "workspace": workspace_id, "project": project_id}
        names = [row[0] for row in engine.query("DESCRIBE TABLE span").result_rows if row[2] != "MATERIALIZED"]
        self._columns = ", ".join(names)
        self._copies = count(1)
        engine.command("DROP TABLE IF EXISTS bench_seed SYNC")
        engine.command(
            f"CREATE TABLE bench_seed ENGINE = MergeTree ORDER BY trace_id AS SELECT {self._columns} FROM span"
        )
        self._seed_rows = int(engine.query("SELECT count() FROM bench_seed").result_rows[0][0])

    def grow_own(self, spans: int) -> int:
        """Add ``spans`` of the tenant itself, and return their number."""
        return self._grow(spans, others=0)

    def grow_others(self, spans: int) -> int:
        """Add ``spans`` of `OTHER_TENANTS` others."""
        return self._grow(spans, others=OTHER_TENANTS)

    def big_trace(self, spans: int) -> str:
        """Add one trace of ``spans`` to the tenant, and return its id."""
        trace, batch = uuid4().hex, str(uuid4())
        root = self._engine.query(_ROOT_OF_ONE_TRACE, parameters={"trace": trace}).result_rows[0][0]
        self._run(_ONE_TRACE, trace=trace, root=root, batch=batch, rows=spans)
        self._run(_RUNS, batch=batch)
        return trace

    def _grow(self, spans: int, others: int) -> int:
        left = spans
        while left > 0:
            batch = str(uuid4())
            for _ in range(max(1, STEP_SPANS // self._seed_rows)):
                rows = min(left, self._seed_rows)
                if rows <= 0:
                    break
                self._run(
                    _COPY, copy=next(self._copies), others=others, spread=SPREAD_S, batch=batch, rows=rows, **self._own
                )
                left -= rows
            self._run(_RUNS, batch=batch)
        return spans

    def _run(self, sql: str, **parameters: object) -> None:
        self._engine.command(sql.replace("COLUMNS", self._columns), parameters=parameters, settings=_SETTINGS)
