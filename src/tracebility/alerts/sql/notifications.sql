-- Notifications for the webhook.

-- name: insert_notification
INSERT INTO notification (id, kind, org_id, body) VALUES ($1, $2, $3, $4)

-- name: unsent_notifications
-- Unsent notifications, those with the fewest attempts first; given up after a day.
SELECT id, kind, org_id, body, created_at
FROM notification
WHERE sent_at IS NULL AND created_at > clock_timestamp() - interval '1 day'
ORDER BY tries, created_at
LIMIT $1

-- name: tried_notification
UPDATE notification
SET tries = tries + 1, sent_at = CASE WHEN $2 THEN clock_timestamp() END
WHERE id = $1

-- name: prune_notifications
DELETE FROM notification WHERE created_at < clock_timestamp() - interval '30 days'

-- name: control_plane_clock
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint

-- name: unrepaired_gaps
SELECT count() AS gaps
FROM audit_reconciliation_gap
WHERE isNull(repaired_at) AND detected_at > now() - INTERVAL 1 DAY;
