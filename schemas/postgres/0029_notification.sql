-- What somebody outside is to be told: written with what it tells of, sent until it is taken.
CREATE TABLE notification
(
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    org_id uuid, -- null: of the installation
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    sent_at timestamptz
);

CREATE INDEX notification_unsent ON notification (created_at) WHERE sent_at IS NULL;
