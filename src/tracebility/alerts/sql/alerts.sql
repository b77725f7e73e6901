-- The firing alerts: one row per kind, so at most a handful.

-- name: standing_alerts
SELECT kind, text, details, size, since FROM standing_alert ORDER BY since, kind

-- name: alerts_are_known
-- Whether the schema has the table of alerts.
SELECT to_regclass('standing_alert') IS NOT NULL

-- name: raise_alert
INSERT INTO standing_alert (kind, text, details, size) VALUES ($1, $2, $3, $4)
ON CONFLICT (kind) DO UPDATE SET text = excluded.text, details = excluded.details, size = excluded.size

-- name: end_alert
DELETE FROM standing_alert WHERE kind = $1
