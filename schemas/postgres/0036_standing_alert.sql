-- Alerts that stand now. A row is written with the notification that tells of it, and deleted with the one that it is over.
CREATE TABLE standing_alert
(
    kind text PRIMARY KEY,
    text text NOT NULL,
    details jsonb NOT NULL,
    size bigint NOT NULL, -- how much there is of it, such as dead letters, when it was last told
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
