-- What was done, by whom, to what: written in the transaction that does it. Rows are never changed or removed.
CREATE TABLE audit_log
(
    event_id uuid PRIMARY KEY,
    event_time timestamptz NOT NULL DEFAULT now(),
    event_type text NOT NULL CHECK (event_type ~ '^[a-z_]+\.[a-z_]+$'),
    org_id uuid, -- null for what an operator does to no org; no foreign key, because the trail outlives its org
    actor_type text NOT NULL CHECK (actor_type IN ('user', 'api_key', 'operator', 'system')),
    actor_id text NOT NULL,
    target_type text NOT NULL,
    target_id text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX audit_log_org_time ON audit_log (org_id, event_time DESC, event_id DESC);

CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only';
END
$$;

CREATE TRIGGER audit_log_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();
