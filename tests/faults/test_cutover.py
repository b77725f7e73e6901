"""docs/multi-tenancy-cutover.md, performed under load, step by step and back."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import clickhouse_connect
import pytest
import redis
from tests.harness.auditor import Auditor
from tests.harness.installation import Installation
from tests.harness.load import Load
from tests.harness.payload import requests

from tracebility.tenant.shard_router import LEGACY_STREAM

SWITCH = "TRACEBILITY_INGEST_DUAL_READ_LEGACY"
TENANT = "the first tenant"
PAUSE_S = 0.02
A_WHILE_S = 2.0
DEADLINE_S = 60.0


class OldProducers:
    """Programs from before the shards: they write to the old stream until they are told that it is written."""

    def __init__(self, installation: Installation, project_id: str) -> None:
        self._installation = installation
        self._project_id = project_id
        self._writing: asyncio.Task[None] | None = None
        self.written: list[str] = []

    def start(self) -> None:
        self._writing = asyncio.create_task(self._write())

    async def stop(self) -> None:
        assert self._writing is not None
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    async def one(self) -> None:
        """Write one run, however often that takes."""
        run_id = str(uuid4())
        run = {"id": run_id, "name": "old", "kind": "llm", "start_time": "2026-11-01T12:00:00Z"}
        said = {"v": 1, "source": "native", "project_id": self._project_id, "payload": run}
        said["received_at"] = "2026-11-01T12:00:01Z"
        while not await asyncio.to_thread(self._put, json.dumps(said)):  # noqa: ASYNC110 (the store tells nobody)
            await asyncio.sleep(PAUSE_S)
        self.written.append(run_id)

    async def _write(self) -> None:
        while True:
            await asyncio.shield(asyncio.ensure_future(self.one()))
            await asyncio.sleep(PAUSE_S)

    def _put(self, text: str) -> bool:
        try:
            with redis.Redis.from_url(self._installation.ready["redis_url"], socket_timeout=2) as client:
                client.xadd(LEGACY_STREAM, {"d": text})
        except (redis.RedisError, OSError, KeyError):
            return False
        return True


def waiting(installation: Installation) -> int:
    """The legacy stream's length, as `tracebility status` says it."""
    with redis.Redis.from_url(installation.ready["redis_url"], socket_timeout=2) as client:
        return int(client.xlen(LEGACY_STREAM))


def edges_of(installation: Installation) -> tuple[str, str]:
    """The ids of the old stream's first and last entry; beyond all ids when it is empty."""
    with redis.Redis.from_url(installation.ready["redis_url"], socket_timeout=2) as client:
        first, last = client.xrange(LEGACY_STREAM, count=1), client.xrevrange(LEGACY_STREAM, count=1)
    return (first[0][0].decode(), last[0][0].decode()) if first and last else ("~", "~")


async def until(what: str, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 (the product tells nobody)
            await asyncio.sleep(0.1)


@pytest.mark.timeout(400)
async def test_the_cutover_loses_and_doubles_nothing_forward_and_back(tmp_path: Path) -> None:
    async with Installation(tmp_path, environment={SWITCH: "true"}) as installation:
        ready = installation.ready
        org = await asyncio.to_thread(_made_org, ready)
        old = OldProducers(installation, org["project_id"])
        load = Load(
            ready["url"], installation.headers(), requests(8, tenant=TENANT, spans=10), connections=2,
            requests_per_s=20, retry=True,
        )  # fmt: skip
        sending = asyncio.create_task(load.run())
        old.start()

        # The worker reads both stream families while old and new producers write.
        await asyncio.sleep(A_WHILE_S)

        # Too early: the switch is off while old producers still write. Nothing is lost, and the way back is the switch.
        await installation.stop()
        await installation.start(**{SWITCH: "false"})
        await until("the old stream grows", lambda: waiting(installation) > 10)
        newest = edges_of(installation)[1]
        await installation.stop()
        await installation.start(**{SWITCH: "true"})
        await until("what had waited is stored", lambda: edges_of(installation)[0] > newest)

        # The old producers are gone: the stream falls to nothing, and the switch goes off.
        await old.stop()
        await until("the old stream is empty", lambda: waiting(installation) == 0)
        await installation.stop()
        await installation.start(**{SWITCH: "false"})

        # One that nobody knew of writes all the same; on the way back its run is stored.
        await old.one()
        await asyncio.sleep(A_WHILE_S)
        assert waiting(installation) == 1
        await installation.stop()
        await installation.start(**{SWITCH: "true"})
        await until("the old stream is empty", lambda: waiting(installation) == 0)

        load.stop()
        await sending
        await _audited(installation, load, org, old.written)


def _made_org(ready: dict[str, Any]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {ready['operator_key']}", "content-type": "application/json"}
    body = json.dumps({"name": "old", "plan": "internal"}).encode()
    with urlopen(Request(f"{ready['url']}/v1/admin/orgs", body, headers, method="POST")) as answer:
        made: dict[str, Any] = json.load(answer)
    return made


async def _audited(installation: Installation, load: Load, org: dict[str, Any], old: list[str]) -> None:
    ready: dict[str, Any] = installation.ready
    with clickhouse_connect.get_client(dsn=ready["clickhouse_url"]) as client:
        found = client.query("SELECT span_id FROM span FINAL WHERE org_id = {org:UUID}", {"org": org["org_id"]})
    assert sorted(row[0] for row in found.result_rows) == sorted(old)
    assert len(old) > 50
    auditor = Auditor(ready, installation.data_dir / "spool")
    await auditor.settle(load.ledger, org_id=ready["org_id"])
    verdict = await auditor.audit(load.ledger, org_id=ready["org_id"], tenant=TENANT)
    assert verdict.problems == []
    assert verdict.acknowledged > 0
    for org_id in (ready["org_id"], org["org_id"]):
        headers = {"authorization": f"Bearer {ready['operator_key']}"}
        request = Request(f"{ready['url']}/v1/admin/orgs/{org_id}/ledger", headers=headers)
        with await asyncio.to_thread(urlopen, request) as answer:
            books = json.load(answer)
        assert books["balanced"], books
        assert (books["in_flight"], books["dead"]) == (0, 0), books
