import asyncio
from pathlib import Path

import pytest
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation, until
from tests.harness.load import Load
from tests.harness.payload import requests
from tests.harness.weather import progress, small_disk

TENANT = "full disk"
ROOM_MB = {"valkey": 64, "clickhouse": 160}
STUCK_ENTRIES = 20


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.parametrize("store", ["valkey", "clickhouse"])
async def test_a_full_disk_under_a_store_loses_nothing_and_ingest_goes_on(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "up" / "data" / store
    with small_disk(folder, ROOM_MB[store]):
        async with Installation(tmp_path / "up") as installation:
            ready = installation.ready
            auditor = Auditor(ready, installation.data_dir / "spool")
            pool = requests(6, tenant=TENANT, spans=20)
            load = Load(ready["url"], installation.headers(), pool, connections=3, requests_per_s=60)
            sending = asyncio.create_task(load.run())
            try:
                await progress([load])
                ballast = fill(folder)
                if store == "clickhouse":
                    await until("a backlog", lambda: auditor.in_flight() > STUCK_ENTRIES, 30)
                else:
                    await until(
                        "the queue's death", lambda: installation.pids()["valkey"] != ready["pids"]["valkey"], 30
                    )
                await progress([load], 60)
                ballast.unlink()
                await progress([load])
            finally:
                load.stop()
                await sending
            await auditor.settle(load.ledger, org_id=ready["org_id"])
            verdict = await auditor.audit(load.ledger, org_id=ready["org_id"], tenant=TENANT)
    assert not verdict.problems, verdict
    assert load.ledger.statuses.keys() == {200}
