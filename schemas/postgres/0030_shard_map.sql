-- Which shards an org's envelopes queue in, where that is not the shard of its hash. A change is a new row; the row with
-- the highest epoch of an org stands, the others are how it came about.
CREATE SEQUENCE shard_map_epoch;

CREATE TABLE shard_map
(
    epoch bigint PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org (id) ON DELETE CASCADE,
    shards integer [] NOT NULL,
    weight bigint CHECK (weight >= 0), -- items that came in the hours before; null: nobody looked
    state text NOT NULL CHECK (state IN ('moved', 'split', 'default')), -- default: by the hash again
    replaced bigint, -- the epoch that an undo leads back to; null: the hash
    moved_at timestamptz NOT NULL,
    moved_by text NOT NULL,
    reason text NOT NULL DEFAULT '',
    CHECK (cardinality(shards) BETWEEN 1 AND 16 AND 0 <= ALL (shards) AND 15 >= ALL (shards)),
    CHECK (state = 'split' OR cardinality(shards) = 1)
);

CREATE INDEX shard_map_org ON shard_map (org_id, epoch DESC);

ALTER TABLE tenant_change DROP CONSTRAINT tenant_change_kind_check;
ALTER TABLE tenant_change ADD CONSTRAINT tenant_change_kind_check
    CHECK (kind IN ('api_key', 'org', 'plan', 'shard_map'));

-- One change at a time, until its commit, so that whoever has seen an epoch has seen all before it. Then every process
-- that routes is told, as of a change of an org.
CREATE FUNCTION shard_map_change() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('shard_map', 0));
    IF EXISTS (SELECT FROM unnest(NEW.shards) AS shard GROUP BY shard HAVING count(*) > 1) THEN
        RAISE check_violation USING MESSAGE = 'a shard is named twice', CONSTRAINT = 'shard_map_distinct';
    END IF;
    NEW.epoch := nextval('shard_map_epoch');
    INSERT INTO tenant_change (rev, kind, id) VALUES (nextval('tenant_change_rev'), 'shard_map', NEW.org_id::text);
    RETURN NEW;
END
$$;

CREATE TRIGGER shard_map_change
    BEFORE INSERT ON shard_map
    FOR EACH ROW EXECUTE FUNCTION shard_map_change();
