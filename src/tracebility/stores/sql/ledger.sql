-- The ledger's outcomes of envelopes, in items.

-- name: known_outcomes
SELECT envelope_id
FROM envelope_outcome
WHERE org_id IN {orgs:Array(UUID)} AND envelope_id IN {ids:Array(UUID)}
    AND accepted_at BETWEEN fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
        AND fromUnixTimestamp64Micro({to_us:Int64}, 'UTC');

-- name: outcomes_of_org
SELECT outcome, reason, sum(items) AS items
FROM envelope_outcome FINAL
WHERE org_id = {org:UUID}
GROUP BY outcome, reason
ORDER BY outcome, reason;

-- name: outcomes_among
SELECT DISTINCT envelope_id
FROM envelope_outcome
WHERE org_id = {org:UUID} AND envelope_id IN {ids:Array(UUID)};

-- name: distinct_of_org
-- Distinct items, as they are billed.
SELECT count() AS items
FROM billing_meter FINAL
WHERE org_id = {org:UUID} AND meter = 'spans'
SETTINGS do_not_merge_across_partitions_select_final = 0;
