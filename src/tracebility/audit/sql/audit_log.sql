-- The audit log in both stores: statements of the relay, the reconciler, verification and the API. One chain per org;
-- events without an org belong to the sentinel tenant's chain. A time outside ClickHouse's range reads as 0: the schema
-- never assigns one, so verification reports the event as edited.

-- name: relay_batch
-- The oldest events in the outbox, in chain order. An event that was deleted from the audit log has only its id.
SELECT
    waiting.event_id AS waiting_id,
    (
        CASE
            WHEN event_time BETWEEN '1900-01-01Z' AND '2299-12-31Z' THEN extract(epoch FROM event_time) * 1000000
            ELSE 0
        END
    )::bigint AS event_time_us,
    audit_log.event_id,
    event_type,
    org_id,
    actor_type,
    actor_id,
    target_type,
    target_id,
    details::text AS details,
    seq,
    encode(hash, 'hex') AS hash
FROM (SELECT event_id FROM audit_outbox ORDER BY event_id LIMIT $1) AS waiting
LEFT JOIN audit_log USING (event_id)
ORDER BY org_id, seq

-- name: relayed
DELETE FROM audit_outbox WHERE event_id = ANY ($1::uuid[])

-- name: chain_events
-- A page of the events of chains $1 to $5, after (seq $2, event $3) of chain $1. Uses the unique index on (chain, seq).
-- `waiting`: not relayed yet.
SELECT
    (
        CASE
            WHEN event_time BETWEEN '1900-01-01Z' AND '2299-12-31Z' THEN extract(epoch FROM event_time) * 1000000
            ELSE 0
        END
    )::bigint AS event_time_us,
    event_id,
    event_type,
    org_id,
    actor_type,
    actor_id,
    target_type,
    target_id,
    details::text AS details,
    seq,
    encode(hash, 'hex') AS hash,
    EXISTS (SELECT FROM audit_outbox WHERE audit_outbox.event_id = audit_log.event_id) AS waiting,
    event_time < clock_timestamp() - interval '60 seconds' AS settled
FROM audit_log
WHERE coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) <= $5
    AND (coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid), seq) >= ($1, $2)
    AND (coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid), seq, event_id) > ($1, $2, $3)
ORDER BY coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid), seq, event_id
LIMIT $4

-- name: events_by_id
-- By primary key.
SELECT
    (
        CASE
            WHEN event_time BETWEEN '1900-01-01Z' AND '2299-12-31Z' THEN extract(epoch FROM event_time) * 1000000
            ELSE 0
        END
    )::bigint AS event_time_us,
    event_id,
    event_type,
    org_id,
    actor_type,
    actor_id,
    target_type,
    target_id,
    details::text AS details,
    seq,
    encode(hash, 'hex') AS hash
FROM audit_log
WHERE event_id = ANY ($1::uuid[])

-- name: hashes_by_seq
-- Uses the unique index on (chain, seq).
SELECT seq, encode(hash, 'hex') AS hash
FROM audit_log
WHERE coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) = $1 AND seq = ANY ($2::bigint[])

-- name: chain_head
SELECT seq, encode(hash, 'hex') AS hash FROM audit_head WHERE org_id = $1

-- name: chain_heads
SELECT org_id, seq, encode(hash, 'hex') AS hash FROM audit_head WHERE org_id > $1 ORDER BY org_id LIMIT $2

-- name: one_snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY

-- name: try_reconcile_audit
SELECT pg_try_advisory_xact_lock($1)

-- name: chained_since
-- The time of the migration that introduced the chain. Keys and orgs made before it need no event.
SELECT applied_at FROM schema_migration WHERE number = 26

-- name: keys_without_event
-- A page of keys created or revoked since $2 without an event of that. Rotations, and the creation of an org with its
-- first key, name the new key in their details. Uses the primary key, and the events' index on target.
SELECT public_id, coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) AS chain, missing, at
FROM (
    SELECT public_id, org_id, 'api_key.created' AS missing, created_at AS at
    FROM api_key
    WHERE created_at >= $2
        AND NOT EXISTS (
            SELECT FROM audit_log
            WHERE target_id = public_id AND event_type IN ('api_key.created', 'api_key.rotated')
        )
        AND NOT EXISTS (
            SELECT FROM audit_log
            WHERE audit_log.org_id IS NOT DISTINCT FROM api_key.org_id
                AND event_type IN ('api_key.rotated', 'org.created')
                AND position('"' || public_id || '"' IN details::text) > 0
        )
    UNION ALL
    SELECT public_id, org_id, 'api_key.revoked', revoked_at
    FROM api_key
    WHERE revoked_at >= $2
        AND NOT EXISTS (
            SELECT FROM audit_log WHERE target_id = public_id AND event_type = 'api_key.revoked'
        )
) AS found
WHERE (public_id, missing) > ($1, $4)
ORDER BY public_id, missing
LIMIT $3

-- name: orgs_without_event
SELECT id, 'org.created' AS missing, created_at AS at
FROM org
WHERE id > $1 AND created_at >= $2
    AND NOT EXISTS (SELECT FROM audit_log WHERE target_id = id::text AND event_type = 'org.created')
ORDER BY id
LIMIT $3

-- name: engine_copies
-- A page of the rows of orgs {org} to {last}, after (time, fingerprint) of {org}, in primary key order. Duplicates are
-- one row.
SELECT DISTINCT
    event_id,
    toUnixTimestamp64Micro(event_time) AS event_time_us,
    event_type,
    org_id,
    actor_type,
    actor_user_id AS actor_id,
    target_type,
    target_id,
    details,
    seq,
    hash,
    lower(hex(sipHash128(
        event_id, event_time, event_type, org_id, actor_type, actor_user_id, target_type, target_id, details, seq, hash
    ))) AS fingerprint
FROM audit_log
WHERE org_id BETWEEN {org:UUID} AND {last:UUID}
    AND event_time >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
    AND (
        org_id > {org:UUID}
        OR (
            event_time >= fromUnixTimestamp64Micro({after_us:Int64}, 'UTC')
            AND (event_time_us, fingerprint) > ({after_us:Int64}, {after_fingerprint:String})
        )
    )
ORDER BY org_id, event_time, fingerprint
LIMIT {limit:UInt32}

-- name: engine_copies_of
-- The rows of a chain with these seqs or event ids.
SELECT DISTINCT
    event_id,
    toUnixTimestamp64Micro(event_time) AS event_time_us,
    event_type,
    org_id,
    actor_type,
    actor_user_id AS actor_id,
    target_type,
    target_id,
    details,
    seq,
    hash
FROM audit_log
WHERE org_id = {org:UUID}
    AND (
        seq BETWEEN {from_seq:UInt64} AND {to_seq:UInt64}
        OR seq IN {seqs:Array(UInt64)}
        OR event_id IN {events:Array(UUID)}
    )

-- name: engine_event_ids
-- Those of these events that exist under these orgs.
SELECT DISTINCT org_id, event_id
FROM audit_log
WHERE org_id IN {orgs:Array(UUID)}
    AND event_time BETWEEN fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
        AND fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
    AND event_id IN {events:Array(UUID)}

-- name: engine_copies_in_any_org
-- The rows of these events under any org. Scans the event_id column, so use it only for events missing from their org.
SELECT DISTINCT
    event_id,
    toUnixTimestamp64Micro(event_time) AS event_time_us,
    event_type,
    org_id,
    actor_type,
    actor_user_id AS actor_id,
    target_type,
    target_id,
    details,
    seq,
    hash
FROM audit_log
WHERE event_id IN {events:Array(UUID)}

-- name: remove_from_engine
-- Delete rows by fingerprint.
ALTER TABLE audit_log
DELETE WHERE org_id IN {orgs:Array(UUID)} AND event_id IN {events:Array(UUID)}
    AND lower(hex(sipHash128(
        event_id, event_time, event_type, org_id, actor_type, actor_user_id, target_type, target_id, details, seq, hash
    ))) IN {fingerprints:Array(String)}
SETTINGS mutations_sync = 2

-- name: repaired_gaps
-- Gaps of kind `deleted` stay unrepaired, even if another row of the same event was repaired.
ALTER TABLE audit_reconciliation_gap
UPDATE repaired_at = now64(6, 'UTC')
WHERE detection_run_id = {run:UUID} AND event_id IN {events:Array(UUID)} AND repaired_at IS NULL
    AND kind != 'deleted'
SETTINGS mutations_sync = 2

-- name: known_without_event
-- Targets that an earlier run recorded as having no event.
SELECT DISTINCT target_id, event_type
FROM audit_reconciliation_gap
WHERE kind = 'no_event' AND target_id IN {targets:Array(String)}

-- name: known_deleted
-- Rows that an earlier run kept because their event was deleted. Uses the primary key.
SELECT DISTINCT event_id, found
FROM audit_reconciliation_gap
WHERE org_id IN {orgs:Array(UUID)} AND kind = 'deleted' AND event_id IN {events:Array(UUID)}

-- name: read_control_plane_audit_log
-- A page of an org's events, newest first; the sentinel's are those without an org. A null filter matches everything.
-- Uses the index on (org, time).
SELECT
    event_id,
    (extract(epoch FROM event_time) * 1000000)::bigint AS event_time_us,
    event_type,
    actor_type,
    actor_id,
    target_type,
    target_id,
    details::text AS details
FROM audit_log
WHERE (org_id = $1 OR ($1 = 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid AND org_id IS NULL))
    AND ($2::text IS NULL OR actor_id = $2)
    AND ($3::text IS NULL OR target_id = $3)
    AND ($4::text IS NULL OR event_type = $4)
    AND ($5::timestamptz IS NULL OR event_time >= $5)
    AND ($6::timestamptz IS NULL OR event_time < $6)
    AND ($7::timestamptz IS NULL OR (event_time, event_id) < ($7, $8::uuid))
ORDER BY event_time DESC, event_id DESC
LIMIT $9

-- name: read_audit_log
-- The same page from ClickHouse. Ids are compared as text, because ClickHouse orders UUIDs by their second half.
SELECT
    event_id,
    toUnixTimestamp64Micro(event_time) AS event_time_us,
    event_type,
    actor_type,
    actor_user_id AS actor_id,
    target_type,
    target_id,
    details
FROM audit_log
WHERE org_id = {org:UUID}
    AND ({actor:String} = '' OR actor_user_id = {actor:String})
    AND ({target:String} = '' OR target_id = {target:String})
    AND ({type:String} = '' OR event_type = {type:String})
    AND event_time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
    AND event_time < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
    AND event_time <= fromUnixTimestamp64Micro({before_us:Int64}, 'UTC')
    AND (event_time_us, toString(event_id)) < ({before_us:Int64}, {before_id:String})
ORDER BY event_time DESC, toString(event_id) DESC
LIMIT 1 BY event_time, event_id
LIMIT {limit:UInt32}

-- name: read_audit_gaps
-- A page of an org's gaps, newest first. Uses the primary key.
SELECT
    detection_run_id,
    toUnixTimestamp64Micro(detected_at) AS detected_us,
    event_id,
    toUnixTimestamp64Micro(event_time) AS event_time_us,
    event_type,
    target_type,
    target_id,
    kind,
    found,
    if(isNull(repaired_at), 0, toUnixTimestamp64Micro(assumeNotNull(repaired_at))) AS repaired_us
FROM audit_reconciliation_gap
WHERE org_id = {org:UUID}
    AND detected_at <= fromUnixTimestamp64Micro({before_us:Int64}, 'UTC')
    AND (detected_us, concat(toString(event_id), target_id, kind)) < ({before_us:Int64}, {before_id:String})
ORDER BY detected_at DESC, concat(toString(event_id), target_id, kind) DESC
LIMIT {limit:UInt32}
