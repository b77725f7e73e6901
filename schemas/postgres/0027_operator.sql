-- Who leads among the operators. `fence` grows with every leader; what one that has been replaced still writes does not
-- get in, because its number is no longer this one.
CREATE TABLE operator_leader
(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    fence bigint NOT NULL DEFAULT 0,
    since timestamptz,
    name text NOT NULL DEFAULT ''
);

INSERT INTO operator_leader DEFAULT VALUES;

-- How the operator's loops are doing, and when each is due again: that survives a restart.
CREATE TABLE operator_loop
(
    name text PRIMARY KEY,
    last_success timestamptz,
    last_duration_s double precision NOT NULL,
    last_error text NOT NULL DEFAULT '',
    fence bigint NOT NULL
);

-- The trail is asked about one target: whether a key has its event, what was done to a project.
CREATE INDEX audit_log_target ON audit_log (target_id, event_type);
