-- Writes audit events. The schema assigns each event's time, seq and hash (0026_audit_chain.sql).

-- name: insert_audit_event
INSERT INTO audit_log (event_id, event_type, org_id, actor_type, actor_id, target_type, target_id, details)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
