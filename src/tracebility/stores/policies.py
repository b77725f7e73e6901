"""The tables that hold tenant rows. Each must have a row policy.

A test compares this list with the schema, so that no table with an ``org_id`` can lack a policy.
"""

# Tables older than tenancy; migration 0006 added their tenant columns.
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
LEDGER_TABLES = ("envelope_outcome",)

# Migration 0006 keeps `_v1` for its rollback and fills `_v2` before the swap. Both hold rows of every tenant.
TENANT_TABLES = (
    *DATA_TABLES,
    *(f"{table}_v1" for table in DATA_TABLES),
    *(f"{table}_v2" for table in DATA_TABLES),
    *AUDIT_TABLES,
    *LEDGER_TABLES,
)
