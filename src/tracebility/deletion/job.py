"""A deletion job as its runner reads it: a row of ``deletion_job`` and what it selects."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tracebility.deletion import erase
from tracebility.deletion.erase import Counts, Selection
from tracebility.deletion.requests import ORG, PROJECT
from tracebility.ids import OrgId, ProjectId
from tracebility.stores.postgres import Row


@dataclass(frozen=True, slots=True)
class Job:
    """A row of ``deletion_job``."""

    id: UUID
    kind: str
    org_id: OrgId
    project_id: ProjectId | None
    target: str
    step: str
    moves: int
    requested_at: datetime
    progress: dict[str, Any]
    before: Counts
    row: Row

    @property
    def until_us(self) -> int:
        """The time of the request. Of a run or a user, only rows that arrived by then are removed."""
        return int(self.requested_at.timestamp() * 1_000_000)

    @property
    def projects(self) -> list[ProjectId]:
        """The projects of the org when the job began; after ``forget``, those at the end of that step."""
        return [ProjectId(UUID(one)) for one in self.progress.get("projects", [])]

    def whole(self) -> Selection | None:
        """The selection of a project or org; None for a run or a user."""
        if self.kind == ORG:
            return erase.of_org(self.org_id, self.projects)
        if self.kind == PROJECT and self.project_id is not None:
            return erase.of_project(self.org_id, self.project_id)
        return None

    def of_batch(self, batch: Mapping[str, Any]) -> Selection:
        """The rows of a batch of runs that arrived before the deletion was requested; later ones stay."""
        return erase.of_runs(self.org_id, ProjectId(UUID(batch["project"])), batch["runs"], self.until_us)


def job_of(row: Row) -> Job:
    """The job that a row of ``deletion_job`` describes."""
    return Job(
        row["id"],
        row["kind"],
        OrgId(row["org_id"]),
        None if row["project_id"] is None else ProjectId(row["project_id"]),
        row["target"],
        row["step"],
        row["moves"],
        row["requested_at"],
        row["progress"],
        row["counts_before"],
        row,
    )
