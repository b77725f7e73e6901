-- Evaluators: how scores are made. `definition` is the evaluator's own document, of the form that its kind has.
CREATE TABLE evaluator
(
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES project (id),
    name text NOT NULL CHECK (name <> ''),
    kind text NOT NULL CHECK (kind IN ('code', 'llm', 'human')),
    definition jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    UNIQUE (project_id, name)
);
