"""Keeps one store or target running: restarts it with backoff, and logs its last lines when it dies repeatedly."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tracebility.embedded.probes import Probe
from tracebility.embedded.process import LineSink, Process, Program, WillNotEnd, describe_exit
from tracebility.errors import ConfigurationError, TracebilityError

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
# A child that lived this long has recovered: the next restart begins with the shortest backoff.
RECOVERED_S = 5.0
# After this many deaths in a row a child counts as dying repeatedly. If it was never ready, the start fails.
KEEPS_DYING = 3
READY_TIMEOUT_S = 90.0  # Valkey loads a 1 GiB queue log in about 10 s. A slow disk may take several times as long.
PROBE_EVERY_S = 0.02
# The exit code of a child with wrong settings (see tracebility.errors). A restart would not help.
CONFIGURATION_EXIT = 2


class StartFailed(TracebilityError):
    """A store or target did not become ready. ``str()`` names it; ``last_lines`` is the end of its output."""

    def __init__(self, reason: str, last_lines: list[str]) -> None:
        super().__init__(reason)
        self.last_lines = last_lines


class Service:
    """A child that is restarted whenever it ends, until it is stopped."""

    def __init__(self, name: str, make: Callable[[], Program], probe: Probe, locks: Path, on_line: LineSink) -> None:
        self.name = name
        self.started: Callable[[], None] = lambda: None
        self.process: Process | None = None
        self._make = make
        self._probe = probe
        self._locks = locks
        self._on_line = on_line
        self._stopping = asyncio.Event()
        self._failure: TracebilityError | None = None
        self._was_ready = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the child, and restart it whenever it dies."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"keep {self.name}")

    async def ready(self) -> None:
        """Wait until the child is ready.

        Raises:
            StartFailed: when it dies repeatedly or is not ready in time.
            ConfigurationError: when its settings are wrong; the text is the child's own.
        """
        reason = "it was not started"
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while True:
                    if self._failure is not None:
                        raise self._failure
                    if self._task is not None and self._task.done():
                        self._task.result()
                    try:
                        reason = await self._probe(self.process.pid if self.process is not None else 0)
                    except (OSError, TimeoutError) as error:
                        reason = f"it does not answer ({error or 'timeout'})"
                    if not reason:
                        self._was_ready = True
                        return
                    await asyncio.sleep(PROBE_EVERY_S)
        except TimeoutError:
            lines = list(self.process.last_lines) if self.process else []
            raise StartFailed(f"{self.name} is not ready after {READY_TIMEOUT_S:.0f} s: {reason}", lines) from None

    async def stop(self, grace_s: float) -> None:
        """Stop the child and do not restart it; kill it after ``grace_s``."""
        self._stopping.set()
        if self._task is None:
            return
        if self.process is not None and self.process.exit_code is None:
            await self.process.stop(grace_s)
        else:  # Between two starts, or before the first.
            self._task.cancel()
        await asyncio.wait((self._task,))

    def kill(self) -> None:
        """Kill the child and do not restart it."""
        self._stopping.set()
        if self.process is not None:
            self.process.send(self.process.program.kill)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff, deaths = BACKOFF_FIRST_S, 0
        again = False
        while not self._stopping.is_set():
            began = clock()
            death = await self._run_once(again)
            if self._stopping.is_set():
                return
            if clock() - began > RECOVERED_S:
                backoff, deaths = BACKOFF_FIRST_S, 0
            deaths += 1
            if not self._was_ready and (death.hopeless or deaths >= KEEPS_DYING):
                self._failure = death.failure()
                return
            self._report(death, deaths, backoff)
            await asyncio.sleep(backoff)  # `stop` cancels it.
            backoff = min(backoff * 2, BACKOFF_MAX_S)
            again = True

    async def _run_once(self, again: bool) -> "_Death":
        try:
            program = self._make()
            if again:  # A failpoint ends a process only once: its restarts run without it.
                program = replace(program, environment={**program.environment, "TRACEBILITY_FAILPOINT": ""})
            process = await Process.start(program, self._locks, self._on_line)
        except WillNotEnd as error:
            return _Death(str(error), [])
        except ConfigurationError as error:
            return _Death(str(error), [str(error)], hopeless=True, configuration=True)
        except (OSError, TracebilityError) as error:
            return _Death(f"{self.name} cannot be started: {error}", [], hopeless=True)
        self.process = process
        self.started()
        code = await process.ended()
        return _Death(
            f"{self.name} ended ({describe_exit(code)})",
            list(process.last_lines),
            hopeless=code == CONFIGURATION_EXIT,
            configuration=code == CONFIGURATION_EXIT,
        )

    def _report(self, death: "_Death", deaths: int, backoff: float) -> None:
        if deaths < KEEPS_DYING:
            self._on_line("up", f"{death.reason}; starting it again")
            return
        self._on_line(
            "up",
            f"{self.name} keeps dying: {death.reason}, {deaths} times in a row; next try in {backoff:.1f} s. "
            "Its last lines:",
        )
        for line in death.lines or ["(no output)"]:
            self._on_line("up", f"    {line}")


@dataclass(frozen=True, slots=True)
class _Death:
    reason: str
    lines: list[str]
    hopeless: bool = False  # A restart would end the same way.
    configuration: bool = False  # Its last line names the wrong setting and the fix.

    def failure(self) -> TracebilityError:
        if self.configuration and self.lines:
            return ConfigurationError(self.lines[-1].removeprefix("tracebility: "))
        return StartFailed(self.reason, self.lines)
