"""A child is kept running, its whole family is waited for, and one that keeps dying is named."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tracebility.embedded.process import Process, Program
from tracebility.embedded.service import Service, StartFailed
from tracebility.errors import ConfigurationError

Lines = list[tuple[str, str]]


def python(code: str, name: str = "child") -> Program:
    return Program(name, [sys.executable, "-S", "-c", code])


async def always_ready(pid: int) -> str:
    return ""


async def never_ready(pid: int) -> str:
    return "it is not"


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.01)


async def test_a_dead_child_is_started_again_and_the_change_is_told(tmp_path: Path) -> None:
    service = Service("child", lambda: python("import time; time.sleep(60)"), always_ready, tmp_path, lambda *_: None)
    pids: list[int] = []
    service.started = lambda: pids.append(service.process.pid if service.process else 0)
    service.start()
    await until(lambda: len(pids) == 1)
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: len(pids) == 2)
    assert pids[0] != pids[1]
    await service.stop(5)


async def test_a_child_that_keeps_dying_is_named_with_its_last_lines(tmp_path: Path) -> None:
    said: Lines = []
    dying = python("import sys; print('no space left'); sys.exit(3)")
    service = Service("child", lambda: dying, always_ready, tmp_path, lambda name, line: said.append((name, line)))
    service.start()
    await service.ready()
    await until(lambda: any("keeps dying" in line for _, line in said))
    named = next(index for index, (_, line) in enumerate(said) if "keeps dying" in line)
    assert "child" in said[named][1]
    assert "exit code 3" in said[named][1]
    assert said[named + 1] == ("up", "    no space left")
    await service.stop(5)


async def test_a_child_that_never_becomes_ready_ends_the_start(tmp_path: Path) -> None:
    dying = python("import sys; print('no space left'); sys.exit(3)")
    service = Service("child", lambda: dying, never_ready, tmp_path, lambda *_: None)
    service.start()
    with pytest.raises(StartFailed, match="exit code 3") as raised:
        await service.ready()
    assert raised.value.last_lines == ["no space left"]
    await service.stop(5)


async def test_a_configuration_error_of_a_child_is_passed_on(tmp_path: Path) -> None:
    wrong = python("import sys; print('tracebility: TRACEBILITY_PG_DSN is not set.'); sys.exit(2)")
    service = Service("child", lambda: wrong, never_ready, tmp_path, lambda *_: None)
    service.start()
    with pytest.raises(ConfigurationError, match=r"^TRACEBILITY_PG_DSN is not set"):
        await service.ready()
    await service.stop(5)


async def test_a_missing_program_ends_the_start(tmp_path: Path) -> None:
    service = Service("child", lambda: Program("child", ["/nowhere"]), never_ready, tmp_path, lambda *_: None)
    service.start()
    with pytest.raises(StartFailed, match="cannot be started"):
        await service.ready()
    await service.stop(5)


async def test_a_child_that_ignores_the_polite_signal_is_ended(tmp_path: Path) -> None:
    said: Lines = []
    stubborn = python(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
    )
    process = await Process.start(stubborn, tmp_path, lambda name, line: said.append((name, line)))
    await until(lambda: said)
    await process.stop(0.1)
    assert process.exit_code == -signal.SIGKILL


async def test_a_restart_waits_for_the_family_of_the_dead(tmp_path: Path) -> None:
    """The grandchild shares no session, group or parent with its successor: only the lock tells that it lives."""
    ended = tmp_path / "ended"
    family = python(
        f"import os, time\nif os.fork(): os._exit(0)\nos.setsid(); time.sleep(0.3); open({str(ended)!r}, 'w').close()"
    )
    first = await Process.start(family, tmp_path, lambda *_: None)
    assert await first.ended() == 0
    second = await Process.start(python(f"import os; assert os.path.exists({str(ended)!r})"), tmp_path, lambda *_: None)
    assert await second.ended() == 0


async def test_output_without_line_ends_is_bounded_and_kept(tmp_path: Path) -> None:
    said: Lines = []
    loud = python("import sys; sys.stdout.write('x' * 1_000_000); sys.stdout.write('\\nlast')")
    process = await Process.start(loud, tmp_path, lambda name, line: said.append((name, line)))
    await process.ended()
    assert max(len(line) for _, line in said) <= 4000
    assert process.last_lines[-1] == "last"
