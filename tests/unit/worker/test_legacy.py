"""While it cannot be told whose envelopes from before the shards are, one question is on its way and nobody waits."""

import asyncio
import json
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tracebility.errors import StoreUnavailable
from tracebility.telemetry import Metrics
from tracebility.worker import legacy
from tracebility.worker.legacy import FIELD, Legacy
from tracebility.worker.metrics import WorkerMetrics

OWNER = (uuid4(), uuid4())
FIXTURES = Path(__file__).parents[2] / "data" / "legacy_envelopes.jsonl"
SAID = json.loads(json.loads(FIXTURES.read_text().splitlines()[0])["d"])


class Owners:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[UUID] = []
        self.answers: dict[UUID, asyncio.Future[tuple[UUID, UUID] | None]] = {}

    async def owner_of(self, project_id: UUID) -> tuple[UUID, UUID] | None:
        self.asked.append(project_id)
        return await self.answers.setdefault(project_id, asyncio.get_running_loop().create_future())


def entry(project_id: UUID) -> dict[bytes, bytes]:
    return {FIELD: json.dumps(SAID | {"project_id": str(project_id)}).encode()}


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "LOOKUP_WAIT_S", 0.01)
    monkeypatch.setattr(legacy, "LOOKUP_RETRY_S", 3600.0)


@pytest.mark.usefixtures("patience")
async def test_an_answer_that_is_late_holds_nobody_up_and_is_used_when_it_is_there() -> None:
    owners = Owners()
    told = Legacy(owners, WorkerMetrics(Metrics()))
    first, second = uuid4(), uuid4()
    for project_id in (first, first, second, first):
        with pytest.raises(StoreUnavailable):
            await told.envelope(b"1-1", entry(project_id))
    assert owners.asked == [first]
    owners.answers[first].set_result(OWNER)
    await asyncio.sleep(0.02)
    header = (await told.envelope(b"1-1", entry(first))).header
    assert (header.org_id, header.workspace_id) == OWNER
    assert owners.asked == [first]


@pytest.mark.usefixtures("patience")
async def test_after_a_refusal_it_is_asked_again_later_only() -> None:
    owners = Owners()
    told = Legacy(owners, WorkerMetrics(Metrics()))
    owners.answers[refused := uuid4()] = asyncio.get_running_loop().create_future()
    owners.answers[refused].set_exception(StoreUnavailable("postgres", "away"))
    for project_id in (refused, uuid4(), refused):
        with pytest.raises(StoreUnavailable):
            await told.envelope(b"1-1", entry(project_id))
    assert owners.asked == [refused]
