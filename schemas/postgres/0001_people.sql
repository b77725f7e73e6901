-- People who sign in. Addresses are compared without case; `password_hash` is an argon2 string, null while invited.
CREATE TABLE app_user
(
    id uuid PRIMARY KEY,
    email text NOT NULL CHECK (email LIKE '%_@_%'),
    name text NOT NULL DEFAULT '',
    password_hash text,
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);

CREATE UNIQUE INDEX app_user_email ON app_user (lower(email));
