-- When a key that was rotated would have ended by itself, 'infinity' for never: `expires_at` says when its overlap ends.
-- Null: it was not rotated. A rotation that is asked for again, its answer lost, makes a key that goes on as long as the
-- first one was to.
-- Back: ALTER TABLE api_key DROP COLUMN expires_unless_rotated;
ALTER TABLE api_key ADD COLUMN expires_unless_rotated timestamptz;
