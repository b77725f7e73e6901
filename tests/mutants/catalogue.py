"""The ways to break it: those that seam.md measured, and the decisions that stand on them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` in ``file`` becomes ``new``; ``tests`` are those that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "a late copy of a span's start replaces the finished span",
        "src/tracebility/worker/columns.py",
        "(accepted + complete).astype",
        "accepted.astype",
        "tests/unit/worker/test_mapping.py",
    ),
    Mutant(
        "a contradicted part of a list of messages is lost",
        "src/tracebility/worker/slot_values.py",
        "            values.is_usable[members[plan.unplaced]] = False\n",
        "",
        "tests/unit/worker/test_span_chunks.py",
    ),
    Mutant(
        "reconciler sets the counter to the sum, and loses what is under way",
        "src/tracebility/tenant/lua/settle.lua",
        "tonumber(ARGV[at + 1]) + (later[ARGV[at]] or 0)",
        "tonumber(ARGV[at + 1])",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "a reconciler that was stopped for long writes over a later one (hot counter)",
        "src/tracebility/tenant/lua/settle.lua",
        "if watermark <= tonumber(",
        "if watermark < 0 * tonumber(",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "a reconciler that was stopped for long writes over a later one (control plane)",
        "src/tracebility/quota/sql/usage.sql",
        "WHERE quota_period.watermark < excluded.watermark",
        "WHERE true",
        "tests/integration/quota/test_reconciler.py",
    ),
    Mutant(
        "the meter is a SummingMergeTree",
        "schemas/clickhouse/0006_tenant_columns.sql",
        "ENGINE = ReplacingMergeTree(version)\nPARTITION BY toYYYYMM(accepted_at)\n"
        "ORDER BY (org_id, period, meter, event_id)",
        "ENGINE = SummingMergeTree(qty)\nPARTITION BY toYYYYMM(accepted_at)\n"
        "ORDER BY (org_id, period, meter, event_id)",
        "tests/integration/quota/test_reconciler.py",
    ),
    Mutant(
        "quota is checked, then counted",
        "src/tracebility/tenant/admission.py",
        "            answer = await self._hot.run(ADMIT, self._keys(tenant, claim), arguments)\n",
        "            had = int(await self._hot.command('HGET', usage_key(tenant.org_id, claim.period), 'spans') or 0)\n"
        "            limit = hard_limit(tenant, 'spans')\n"
        "            if limit is not None and had + claim.quantities['spans'] > limit:\n"
        "                raise self._over_quota(tenant, claim, 'spans', had)\n"
        "            arguments[10::3] = [-1] * len(arguments[10::3])\n"
        "            answer = await self._hot.run(ADMIT, self._keys(tenant, claim), arguments)\n",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "the semaphore counts up and down, and never gives back what a dead holder had",
        "src/tracebility/tenant/lua/lease.lua",
        "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))\n",
        "",
        "tests/integration/tenant/test_eval_concurrency.py",
    ),
    Mutant(
        "ingest streams are trimmed by their length",
        "src/tracebility/stores/queue/entries.py",
        'return ("XADD", stream, "*",',
        'return ("XADD", stream, "MAXLEN", "2", "*",',
        "tests/integration/stores/test_queue.py",
    ),
    Mutant(
        "the cache of keys slides: who is busy stays known",
        "src/tracebility/tenant/resolver.py",
        "            self._known.move_to_end(public_id)\n            return entry.record",
        "            self._known.move_to_end(public_id)\n            entry.fresh_until = now + TTL_S\n"
        "            return entry.record",
        "tests/unit/tenant/test_resolver.py",
    ),
    Mutant(
        "entries are acknowledged before they are stored",
        "src/tracebility/worker/consumer.py",
        "        refusals = {(one.held.stream",
        "        await self._queue.remove([Removal(held.stream, [held.entry.id]) for held in work.held])\n"
        "        refusals = {(one.held.stream",
        "tests/integration/worker/test_crashes.py",
    ),
    Mutant(
        "a large run is computed with everybody's batch",
        "src/tracebility/worker/runs.py",
        "            apart = self._large.among(traces, orgs)\n",
        "            apart: set[RunKey] = set()\n",
        "tests/integration/worker/test_large_runs.py",
    ),
    Mutant(
        "whatever the engine cannot do now is held against the rows",
        "src/tracebility/worker/engine_retry.py",
        "if isinstance(error, EngineRejected) and error.code in given_up:",
        "if isinstance(error, EngineRejected):",
        "tests/integration/worker/test_faults.py",
    ),
    Mutant(
        "a record of before a revocation that is written back late is used",
        "src/tracebility/stores/keys.py",
        "if record is not None and record.public_id == public_id and not self._is_outdated(record):",
        "if record is not None and record.public_id == public_id:",
        "tests/integration/stores/test_changes.py",
    ),
    Mutant(
        "a look-up that began before a change answers who asks after it",
        "src/tracebility/tenant/resolver.py",
        "if record is not None and not self.is_outdated(record):",
        "if record is not None:",
        "tests/unit/tenant/test_resolver.py",
    ),
    Mutant(
        "a key that was made while it was looked up stays unknown",
        "src/tracebility/tenant/resolver.py",
        'if record is None and self._changes.get(("api_key", public_id)) == last_change:',
        "if record is None:",
        "tests/unit/tenant/test_resolver.py",
    ),
    Mutant(
        "what a process keeps of a key outlives a change that it heard of",
        "src/tracebility/tenant/resolver.py",
        "if self._is_outdated((entry or _NO_ENTRY).revisions):",
        "if False:",
        "tests/integration/tenant/test_revocation.py",
    ),
    Mutant(
        "a key that was refused before it was made stays refused when it is announced",
        "src/tracebility/tenant/resolver.py",
        "self._unknown.pop(PublicKeyId(change.id), None)",
        "pass",
        "tests/unit/tenant/test_resolver.py",
    ),
    Mutant(
        "a change of a plan is no change of its orgs' keys",
        "src/tracebility/tenant/resolver.py",
        'frozenset({"api_key", "org", "plan"})',
        'frozenset({"api_key", "org"})',
        "tests/integration/stores/test_changes.py",
    ),
    Mutant(
        "a process that starts looks keys up before it has heard of what changed",
        "src/tracebility/stores/changes.py",
        "    with suppress(StoreUnavailable):\n        await changes.poll()\n    tasks",
        "    tasks",
        "tests/integration/stores/test_changes.py",
    ),
    Mutant(
        "what nobody announces is heard of only when the cache ends",
        "src/tracebility/stores/changes.py",
        "            self._changed(Change(row",
        "            (lambda change: None)(Change(row",
        "tests/integration/stores/test_changes.py",
    ),
    Mutant(
        "an envelope that comes once more is accepted once more",
        "src/tracebility/tenant/lua/record_accepted.lua",
        ".. now_ms) == 1 then",
        ".. now_ms) >= 0 then",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "an envelope that left the ledger and came again stays accepted twice",
        "src/tracebility/tenant/lua/remove_entries.lua",
        "elseif was_in_flight and counts_elsewhere then",
        "elseif false then",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "a departure that is asked for again takes another entry of the envelope out of flight",
        "src/tracebility/tenant/lua/remove_entries.lua",
        "if entry == '' or deleted[entry] then",
        "if true then",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "an envelope counts for whichever of its entries asked last",
        "src/tracebility/tenant/lua/counted_entry.lua",
        "if not place and ARGV",
        "if ARGV",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "an outcome of long ago is no outcome",
        "src/tracebility/tenant/lua/counted_entry.lua",
        "if not place and ARGV[nth * 2 + 1] == '0' then",
        "if not place then",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "which entry an envelope counts for is forgotten while that waits",
        "src/tracebility/stores/queue/consumer.py",
        "[COUNTS_IN_STREAM_MS, *arguments]",
        "[COUNTS_LEFT_MS, *arguments]",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "the two streams of a shard decide apart which entry an envelope counts for",
        "src/tracebility/tenant/ledger.py",
        "stream_key(primary_stream(entry.stream), ",
        "stream_key(entry.stream, ",
        "tests/integration/worker/test_ledger.py",
    ),
    Mutant(
        "a queue whose memory is full is not drained",
        "src/tracebility/tenant/scripts.py",
        'COUNTED_ENTRY, REMOVE_ENTRIES = map(_load, ("counted_entry", "remove_entries"))',
        'COUNTED_ENTRY, REMOVE_ENTRIES = _load("counted_entry", "flags="), _load("remove_entries")',
        "tests/integration/worker/test_faults.py",
    ),
    Mutant(
        "what a dead edge reserved for a body is charged again",
        "src/tracebility/tenant/lua/admit.lua",
        "local before = mark and string",
        "local before = false and string",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "what was reserved for a body, and is settled away, lets the body in unchecked",
        "src/tracebility/tenant/lua/admit.lua",
        "if before and redis.call('HEXISTS',",
        "if false and redis.call('HEXISTS',",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "what is taken over is settled away with the first attempt's stamp",
        "src/tracebility/tenant/lua/admit.lua",
        "local slot = math.max(tonumber(ARGV[8]),",
        "local slot = math.max(tonumber(before or ARGV[8]),",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "a settlement forgets what was reserved for what waits in disk buffers",
        "src/tracebility/quota/reconciler.py",
        "(*buffered, *late)",
        "late",
        "tests/integration/quota/test_reconciler.py",
    ),
    Mutant(
        "a settlement forgets what was reserved for what came from a disk buffer late",
        "src/tracebility/quota/reconciler.py",
        "(*buffered, *late)",
        "buffered",
        "tests/integration/quota/test_reconciler.py",
    ),
    Mutant(
        "what goes from a disk buffer into the queue is between two answers",
        "src/tracebility/quota/reconciler.py",
        "        late = await self._queue.late_slots(oldest_ms)\n",
        "        late = await self._queue.late_slots(oldest_ms)\n"
        "        buffered = await self._buffered_slots(now_us)\n",
        "tests/integration/quota/test_reconciler.py",
    ),
    Mutant(
        "a full Redis is not told of what it sends to disk",
        "src/tracebility/tenant/scripts.py",
        'ADMIT, REFUND, SETTLE, SET_FIELD = map(_load, ("admit", "refund", "settle", "set_field"))',
        'ADMIT, REFUND, SETTLE = map(_load, ("admit", "refund", "settle"))\nSET_FIELD = _load("set_field", "flags=")',
        "tests/integration/ingest/test_faults.py",
    ),
    Mutant(
        "what came from a disk buffer is in the queue without its stamp",
        "src/tracebility/ingest/disk_buffer/replay.py",
        "            if headers:\n",
        "            if False:\n",
        "tests/integration/ingest/test_faults.py",
    ),
    Mutant(
        "an edge that ends goes on holding what it held at its last beat",
        "src/tracebility/ingest/heartbeat.py",
        "            with suppress(StoreUnavailable):\n                await self._report_oldest()",
        "            pass",
        "tests/integration/ingest/test_faults.py",
    ),
    Mutant(
        "one request that is too large flags its org",
        "src/tracebility/tenant/admission.py",
        "if hard is not None and quantity >= hard:",
        "if hard is not None:",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "a Redis that comes and goes lends each time that it goes",
        "src/tracebility/tenant/quota.py",
        "if local is not None and usage.watermark >= local.slot:",
        "if local is not None:",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "what was settled is given back",
        "src/tracebility/tenant/lua/refund.lua",
        "if tonumber(ARGV[2]) > tonumber(",
        "if 0 * tonumber(ARGV[2]) <= tonumber(",
        "tests/integration/tenant/test_quota.py",
    ),
    Mutant(
        "requests that are refused push the next one away",
        "src/tracebility/tenant/lua/admit.lua",
        "            return {1, which, tat + interval - most, 0}",
        "            remember(KEYS[which], tat + interval)\n            return {1, which, tat + interval - most, 0}",
        "tests/integration/tenant/test_rate.py",
    ),
    Mutant(
        "a clock that went back makes an org wait for the difference",
        "src/tracebility/tenant/lua/admit.lua",
        "        if tat > most then",
        "        if false then",
        "tests/integration/tenant/test_rate.py",
    ),
    Mutant(
        "the net behind the quota drops what was reserved",
        "src/tracebility/worker/consumer.py",
        "if header.degraded and await",
        "if await",
        "tests/integration/worker/test_legacy.py",
    ),
    Mutant(
        "with the control plane away legacy envelopes become nobody's",
        "src/tracebility/worker/legacy.py",
        "            self._down_until = now + LOOKUP_RETRY_S\n            raise\n",
        "            return None\n",
        "tests/integration/worker/test_legacy.py",
    ),
    Mutant(
        "the same body is let in and charged again",
        "src/tracebility/tenant/admission.py",
        "mark(admitted.at_us), MARK_LIFE_MS)",
        "mark(admitted.at_us), 1)",
        "tests/integration/ingest/test_gates.py",
    ),
    Mutant(
        "a body whose data was removed is still the same body",
        "src/tracebility/tenant/lua/admit.lua",
        "is_same = tonumber(admitted_at) >",
        "is_same = true or tonumber(admitted_at) >",
        "tests/integration/ingest/test_gates.py",
    ),
    Mutant(
        "orgs share their keys in Redis",
        "src/tracebility/tenant/redis_keys.py",
        'return f"{PREFIX}:{{{org_id}}}:{kind}{_spelled(parts)}"',
        'return f"{PREFIX}:{{}}:{kind}{_spelled(parts)}"',
        "tests/integration/ingest/test_gates.py",
    ),
    Mutant(
        "an event leaves the outbox before the data plane has it",
        "src/tracebility/audit/relay.py",
        "            await chain_store.insert(self._engine, events)\n"
        '            failpoint("audit_relay_after_insert")\n'
        '            await self._control.execute("relayed", ids)\n',
        '            await self._control.execute("relayed", ids)\n'
        '            failpoint("audit_relay_after_insert")\n'
        "            await chain_store.insert(self._engine, events)\n",
        "tests/integration/audit/test_relay.py",
    ),
    Mutant(
        "a key is made of a project or org that is being deleted",
        "src/tracebility/orgs/keys.py",
        "    await hold_place(transaction, place.org_id, place.project_id)\n",
        "",
        "tests/integration/api/test_deletions.py",
    ),
    Mutant(
        "the keys of a project are not all locked before the first ends",
        "src/tracebility/deletion/sql/deletion.sql",
        "ORDER BY public_id FOR NO KEY UPDATE",
        "ORDER BY public_id",
        "tests/integration/api/test_deletions.py",
    ),
    Mutant(
        "whoever stood still writes over a deletion that has gone on",
        "src/tracebility/deletion/sql/deletion.sql",
        "    error = '',\n    moves = moves + 1\nWHERE id = $1 AND moves = $2 AND state IN",
        "    error = '',\n    moves = moves + 1\nWHERE id = $1 AND moves >= $2 AND state IN",
        "tests/integration/deletion/test_several.py::test_who_was_overtaken_changes_nothing",
    ),
    Mutant(
        "dead letters are not bounded",
        "src/tracebility/tenant/dead_letters.py",
        "    if held_bytes <= MAX_BYTES:\n",
        "    if held_bytes >= 0:\n",
        "tests/integration/worker/test_faults.py",
    ),
    Mutant(
        "a dead letter needs room that only its worker can make",
        "src/tracebility/tenant/scripts.py",
        'ADD_DEAD_LETTER, REMOVE_DEAD_LETTERS = map(_load, ("add_dead_letter", "remove_dead_letters"))',
        'ADD_DEAD_LETTER, REMOVE_DEAD_LETTERS = _load("add_dead_letter", "flags="), _load("remove_dead_letters")',
        "tests/integration/worker/test_faults.py",
    ),
    Mutant(
        "the first look at the trail does not recompute hashes",
        "src/tracebility/audit/prefilter.py",
        "link.seq == self.seq + 1 and link.follows(self.hash)",
        "link.seq == self.seq + 1",
        "tests/integration/audit/test_verify.py",
    ),
    Mutant(
        "the audit prefilter does not compare the stores",
        "src/tracebility/audit/prefilter.py",
        "return self.is_linked and self.has_head and self.postgres_sum == self.clickhouse_sum",
        "return self.is_linked and self.has_head",
        "tests/integration/audit/test_verify.py",
    ),
    Mutant(
        "a webhook leaves no trace in the trail",
        "src/tracebility/alerts/webhook.py",
        'if is_taken and row["org_id"] is not None:',
        "if False:",
        "tests/integration/alerts/test_checks.py",
    ),
    Mutant(
        "browsers send no origin with the pages' forms",
        "src/tracebility/api/html.py",
        '"referrer-policy": "same-origin"',
        '"referrer-policy": "no-referrer"',
        "tests/browser/test_pages.py",
    ),
    Mutant(
        "an unknown query parameter is ignored",
        "src/tracebility/api/routing.py",
        "if name not in known:",
        "if False:",
        "tests/integration/api/test_door.py",
    ),
    Mutant(
        "the api starts as a ClickHouse user whom no row policy binds",
        "src/tracebility/api/service.py",
        "if not settings.api_as_owner:",
        "if False:",
        "tests/integration/api/test_health.py",
    ),
    Mutant(
        "the keys of a deleted org are not refused as revoked",
        "src/tracebility/stores/sql/keys.sql",
        "coalesce(api_key.revoked_at, org.deleted_at) AS revoked_at",
        "api_key.revoked_at AS revoked_at",
        "tests/integration/api/test_deletions.py",
    ),
)
