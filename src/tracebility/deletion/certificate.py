"""The certificate of a finished deletion: what was removed, what was kept, and a hash that the audit log holds too."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tracebility.deletion.erase import Counts
from tracebility.deletion.job import Job
from tracebility.deletion.requests import ORG, PROJECT, RUN, USER
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


def certificate_of(job: Job, after: Counts, finished_at: datetime) -> dict[str, Any]:
    """The certificate of ``job``: rows per table before, from the job, and after; who asked, when; what was kept."""
    told = ("books", "dead_letters", "redis_keys", "control_rows", "runs")
    return {
        "job_id": str(job.id),
        "kind": job.kind,
        "org_id": str(job.org_id),
        "project_id": job.project_id and str(job.project_id),
        "target": job.target,
        "requested_by": {"type": job.row["requested_by_type"], "id": job.row["requested_by"]},
        "requested_at": stamp(job.requested_at),
        "started_at": stamp(job.row["started_at"]),
        "finished_at": stamp(finished_at),
        "rows": {table: {"before": found, "after": after[table]} for table, found in sorted(job.before.items())},
        **{name: job.progress[name] for name in told if name in job.progress},
        "kept": list(KEPT[job.kind]),
    }


def certificate_hash(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate as UTF-8 JSON with sorted keys and no spaces, as recorded in the audit log."""
    canonical = json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
