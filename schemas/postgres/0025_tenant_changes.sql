-- What processes remember of keys, orgs and plans follows what changes here: each change has a number and leaves a row.
-- Triggers see to it, so that no statement can change what a tenant may do without its caches hearing of it.
CREATE SEQUENCE tenant_change_rev;

CREATE TABLE tenant_change
(
    rev bigint PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('api_key', 'org', 'plan')),
    id text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX tenant_change_at ON tenant_change (at);

-- A key may be limited more closely than its org. Null: only as its org is.
ALTER TABLE api_key ADD COLUMN rev bigint NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN requests_per_s integer CHECK (requests_per_s > 0);
ALTER TABLE api_key ADD COLUMN burst integer CHECK (burst > 0);

ALTER TABLE org ADD COLUMN rev bigint NOT NULL DEFAULT 0;

ALTER TABLE plan ADD COLUMN rev bigint NOT NULL DEFAULT 0;
ALTER TABLE plan ADD COLUMN query_concurrency integer CHECK (query_concurrency > 0);

CREATE FUNCTION note_tenant_change() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    NEW.rev := nextval('tenant_change_rev');
    INSERT INTO tenant_change (rev, kind, id) VALUES (NEW.rev, TG_TABLE_NAME, to_jsonb(NEW) ->> TG_ARGV[0]);
    RETURN NEW;
END
$$;

-- Not on what is merely noted of a key, such as when it was last used.
CREATE TRIGGER api_key_change
    BEFORE INSERT OR UPDATE OF org_id, workspace_id, project_id, secret_hash, scopes, expires_at, revoked_at,
        requests_per_s, burst ON api_key
    FOR EACH ROW EXECUTE FUNCTION note_tenant_change('public_id');

CREATE TRIGGER org_change
    BEFORE UPDATE OF plan, suspended_at, retention_days ON org
    FOR EACH ROW EXECUTE FUNCTION note_tenant_change('id');

CREATE TRIGGER plan_change
    BEFORE UPDATE ON plan
    FOR EACH ROW EXECUTE FUNCTION note_tenant_change('name');

CREATE FUNCTION touch_plan() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    UPDATE plan SET updated_at = clock_timestamp() WHERE name = coalesce(NEW.plan, OLD.plan);
    RETURN NULL;
END
$$;

CREATE TRIGGER plan_meter_limit_change
    AFTER INSERT OR UPDATE OR DELETE ON plan_meter_limit
    FOR EACH ROW EXECUTE FUNCTION touch_plan();

-- What the plans that ship allow, where no operator has said anything yet. 'internal' stays without limits.
CREATE TEMPORARY TABLE shipped ON COMMIT DROP AS
SELECT *
FROM
(
    VALUES
        ('free', 20, 100, 14, 1, 2, 100000::bigint, 80000::bigint, 1::bigint << 30),
        ('team', 200, 1000, 90, 5, 5, 10000000, 8000000, 100::bigint << 30),
        ('enterprise', 2000, 10000, 400, 50, 20, 1000000000, 800000000, 10000::bigint << 30)
) AS s (name, requests_per_s, burst, retention_days, eval_concurrency, query_concurrency, spans, soft_spans, bytes)
WHERE EXISTS (
    SELECT FROM plan
    WHERE plan.name = s.name AND plan.updated_at = plan.created_at AND plan.requests_per_s IS NULL
) AND NOT EXISTS (SELECT FROM plan_meter_limit WHERE plan_meter_limit.plan = s.name);

UPDATE plan
SET
    requests_per_s = s.requests_per_s,
    burst = s.burst,
    retention_days = s.retention_days,
    eval_concurrency = s.eval_concurrency,
    query_concurrency = s.query_concurrency
FROM shipped AS s
WHERE plan.name = s.name;

INSERT INTO plan_meter_limit (plan, meter, hard_limit, soft_limit)
SELECT name, 'spans', spans, soft_spans FROM shipped
UNION ALL
SELECT name, 'bytes', bytes, bytes / 10 * 8 FROM shipped;
