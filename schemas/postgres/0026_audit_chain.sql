-- The audit trail shows tampering: the events of an org are numbered, and each holds the hash of the one before it. All
-- of it is done here, so that no event gets in without its place in the chain and in the outbox to the data plane.

-- Where an org's chain ends. Events of no org have the sentinel tenant's.
CREATE TABLE audit_head
(
    org_id uuid PRIMARY KEY,
    seq bigint NOT NULL,
    hash bytea NOT NULL
);

-- Events that the data plane does not have yet.
CREATE TABLE audit_outbox
(
    event_id uuid PRIMARY KEY
);

ALTER TABLE audit_log ALTER COLUMN event_time DROP DEFAULT;
ALTER TABLE audit_log ADD COLUMN seq bigint;
ALTER TABLE audit_log ADD COLUMN hash bytea;

-- SHA-256 over the hash before it and every field, each behind its length in bytes and a colon.
CREATE FUNCTION audit_hash(before bytea, event audit_log) RETURNS bytea LANGUAGE sql AS
$$
    SELECT sha256(before || convert_to(string_agg(octet_length(field) || ':' || field, '' ORDER BY place), 'UTF8'))
    FROM unnest(ARRAY [
        event.seq::text,
        event.event_id::text,
        (extract(epoch FROM event.event_time) * 1000000)::bigint::text,
        event.event_type,
        coalesce(event.org_id::text, ''),
        event.actor_type,
        event.actor_id,
        event.target_type,
        event.target_id,
        event.details::text
    ]) WITH ORDINALITY AS fields (field, place)
$$;

CREATE FUNCTION audit_log_chain() RETURNS trigger LANGUAGE plpgsql AS
$$
DECLARE
    chain uuid := coalesce(NEW.org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    head audit_head;
BEGIN
    INSERT INTO audit_head (org_id, seq, hash) VALUES (chain, 0, '') ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT head FROM audit_head WHERE org_id = chain FOR UPDATE;
    -- Behind the lock, so that times have the order of the numbers.
    NEW.event_time := coalesce(NEW.event_time, clock_timestamp());
    NEW.seq := head.seq + 1;
    NEW.hash := audit_hash(head.hash, NEW);
    UPDATE audit_head SET seq = NEW.seq, hash = NEW.hash WHERE org_id = chain;
    INSERT INTO audit_outbox (event_id) VALUES (NEW.event_id);
    RETURN NEW;
END
$$;

-- Events from before the chain are put into it in the order of their times.
CREATE TEMPORARY TABLE earlier ON COMMIT DROP AS SELECT * FROM audit_log;

ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only;
DELETE FROM audit_log;
ALTER TABLE audit_log ENABLE TRIGGER audit_log_append_only;
ALTER TABLE audit_log ALTER COLUMN seq SET NOT NULL;
ALTER TABLE audit_log ALTER COLUMN hash SET NOT NULL;

CREATE TRIGGER audit_log_chain
    BEFORE INSERT ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_log_chain();

INSERT INTO audit_log SELECT * FROM earlier ORDER BY event_time, event_id;

CREATE UNIQUE INDEX audit_log_seq ON audit_log (coalesce(org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid), seq);
