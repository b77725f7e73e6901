"""Which tables hold rows of tenants: each has a row policy wherever the engine is set up.

A test compares this list with the schema, so that a table with an ``org_id`` and no policy cannot come to be.
"""

# Every table of the data plane from before tenancy; migration 0006 gave each its tenant columns.
DATA_TABLES = (
    "run",
    "span",
    "eval_score",
    "eval_aggregate",
    "replay_capture",
    "replay_run",
    "dataset_item",
    "billing_meter",
)
AUDIT_TABLES = ("audit_log", "audit_reconciliation_gap")
BOOK_TABLES = ("envelope_outcome",)

# `_v1` is the way back of migration 0006, `_v2` the table it fills before the swap: both hold rows of every tenant.
TENANT_TABLES = (
    *DATA_TABLES,
    *(f"{table}_v1" for table in DATA_TABLES),
    *(f"{table}_v2" for table in DATA_TABLES),
    *AUDIT_TABLES,
    *BOOK_TABLES,
)
