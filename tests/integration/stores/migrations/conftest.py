"""A control plane and a data plane as they were before tenancy, with rows in all eight tables."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tracebility.stores import clickhouse, postgres
from tracebility.stores.clickhouse import Engine
from tracebility.stores.migrations import migrate
from tracebility.stores.policies import DATA_TABLES
from tracebility.stores.postgres import Postgres

BEFORE_TENANCY = 5
RUNNER = Path(__file__).with_name("killed_runner.py")
ROWS = Path(__file__).parents[3] / "data" / "migrations" / "pre_tenancy_rows.sql"

# What a table says, whatever its parts: every column but those that 0006 adds (EXCEPT passes over what is not there).
FINGERPRINT = """
SELECT count(), sum(sipHash64(toString(tuple(* EXCEPT (org_id, workspace_id)))))
FROM {table:Identifier} FINAL
"""
SCHEMA = """
SELECT name, replaceAll(create_table_query, currentDatabase(), 'db')
FROM system.tables
WHERE database = currentDatabase()
ORDER BY name
"""


@dataclass
class OldPlane:
    """Both stores, the data plane at migration 0005. ``tenants``: project -> (org, workspace)."""

    dsns: tuple[str, str]
    control: Postgres
    engine: Engine
    tenants: dict[UUID, tuple[UUID, UUID]]
    orphan: UUID

    async def fill(self, *, spans: int, others: int) -> None:
        """Rows in all eight tables, a quarter of them of each known project, a quarter of one that nobody knows."""
        parts = re.split(r"^-- name: (\w+)\n", ROWS.read_text(), flags=re.MULTILINE)[1:]
        statements = dict(zip(parts[::2], parts[1::2], strict=True))
        assert statements.keys() == set(DATA_TABLES)
        projects = [*self.tenants, self.orphan]
        for table in DATA_TABLES:
            rows = spans if table == "span" else others
            await self.engine.execute(statements[table], {"projects": projects, "rows": rows})

    async def fingerprints(self, suffix: str = "") -> dict[str, Any]:
        """What each of the eight tables says, by its name without ``suffix``."""
        return {
            table: (await self.engine.query(FINGERPRINT, {"table": table + suffix})).rows[0] for table in DATA_TABLES
        }

    async def schema(self) -> dict[str, str]:
        """Every table and how it is made."""
        return {str(name): str(text) for name, text in (await self.engine.query(SCHEMA)).rows}


class Runners:
    """Runners of migrations in processes of their own, which may be told to die at a statement."""

    def __init__(self, server: asyncio.subprocess.Process, dsns: tuple[str, str]) -> None:
        self._server = server
        self._dsns = dsns

    async def start(self, kill_at: tuple[int, int, str] = (0, 0, ""), *, back: bool = False) -> int:
        """Start one, to be killed at (file, step, before or after it); its pid."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"kill_at": kill_at, "dsns": self._dsns, "back": back}).encode() + b"\n")
        return await self.ended()

    async def ended(self) -> int:
        """The exit code of the one that was started."""
        assert self._server.stdout is not None
        return int(await self._server.stdout.readline())

    async def run(self, kill_at: tuple[int, int, str], *, back: bool = False) -> int:
        """Start one and wait for its end."""
        await self.start(kill_at, back=back)
        return await self.ended()


@pytest.fixture
async def runners(old_plane: OldPlane) -> AsyncIterator[Runners]:
    server = await asyncio.create_subprocess_exec(
        sys.executable, RUNNER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    yield Runners(server, old_plane.dsns)
    assert server.stdin is not None
    server.stdin.close()
    await server.wait()


@pytest.fixture
async def old_plane(databases: Any) -> AsyncIterator[OldPlane]:
    await migrate(*databases.both, up_to={"clickhouse": BEFORE_TENANCY})
    control = await postgres.connect(databases.pg_dsn)
    engine = await clickhouse.connect(databases.clickhouse_url)
    tenants = {}
    for _ in range(3):
        org_id, workspace_id, project_id = uuid4(), uuid4(), uuid4()
        await control.execute("insert_org", org_id, "an org", "free")
        await control.execute("insert_workspace", workspace_id, org_id, "default")
        await control.execute("insert_project", project_id, workspace_id, "default")
        tenants[project_id] = (org_id, workspace_id)
    yield OldPlane(databases.both, control, engine, tenants, uuid4())
    await control.close()
    await engine.close()
