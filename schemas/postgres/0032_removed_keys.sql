-- A key whose row goes is a change too: what processes, and Redis, remember of it must not outlive it. There is no row
-- any more that could carry the number.
-- Back: DROP TRIGGER api_key_removal ON api_key; DROP FUNCTION note_tenant_removal();
CREATE FUNCTION note_tenant_removal() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    INSERT INTO tenant_change (rev, kind, id)
    VALUES (nextval('tenant_change_rev'), TG_TABLE_NAME, to_jsonb(OLD) ->> TG_ARGV[0]);
    RETURN NULL;
END
$$;

CREATE TRIGGER api_key_removal
    AFTER DELETE ON api_key
    FOR EACH ROW EXECUTE FUNCTION note_tenant_removal('public_id');
