"""The certificate of a deletion: what was requested, what was removed, what was kept; and its hash."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tracebility.deletion.erase import Counts
from tracebility.deletion.jobs import ORG, PROJECT, RUN, USER
from tracebility.stores.postgres import Row
from tracebility.validation import stamp

# Kept data that the certificate lists: tables, and the ledger's keys in Redis.
KEPT = {
    ORG: (
        "accepted", "in_flight", "billing_meter", "envelope_outcome", "audit_log", "audit_reconciliation_gap",
        "quota_period", "org",
    ),
    PROJECT: ("billing_meter", "envelope_outcome", "audit_log", "audit_reconciliation_gap"),
    USER: ("billing_meter", "envelope_outcome", "audit_log", "eval_aggregate", "dataset_item"),
    RUN: ("billing_meter", "envelope_outcome", "audit_log", "eval_aggregate", "dataset_item"),
}  # fmt: skip
# Entries of a job's progress that the certificate repeats.
_FROM_PROGRESS = ("books", "dead_letters", "redis_keys", "control_rows", "runs")


def certificate_of(row: Row, after: Counts, finished_at: datetime) -> dict[str, Any]:
    """The certificate of the job in ``row`` of ``deletion_job``; ``after`` are the rows left, by table."""
    project_id, progress = row["project_id"], row["progress"]
    return {
        "job_id": str(row["id"]),
        "kind": row["kind"],
        "org_id": str(row["org_id"]),
        "project_id": project_id and str(project_id),
        "target": row["target"],
        "requested_by": {"type": row["requested_by_type"], "id": row["requested_by"]},
        "requested_at": stamp(row["requested_at"]),
        "started_at": stamp(row["started_at"]),
        "finished_at": stamp(finished_at),
        "rows": {
            table: {"before": found, "after": after[table]} for table, found in sorted(row["counts_before"].items())
        },
        **{name: progress[name] for name in _FROM_PROGRESS if name in progress},
        "kept": list(KEPT[row["kind"]]),
    }


def certificate_hash(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate as UTF-8 JSON with sorted keys and no spaces, as recorded in the audit log."""
    canonical = json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
