"""A whole ``tracebility up`` under test: started, watched by its ready file, killed in part or whole, started again."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from tracebility.embedded.installation import free_port

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
RECOVERY_DEADLINE_S = 60.0
POLL_S = 0.05

WORKERS = 2
TARGETS = ("ingest-api", "ingest-worker", "ingest-worker-2", "api", "operator")
STORES = ("postgres", "valkey", "clickhouse")


class DidNotHappen(AssertionError):
    """A condition was not reached within its bound."""


async def until(what: str, condition: Callable[[], Any], deadline_s: float, poll_s: float = POLL_S) -> Any:
    """Poll ``condition`` in a thread until it is true, and return its value.

    Raises:
        DidNotHappen: after ``deadline_s``, naming ``what``.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = await asyncio.to_thread(condition)
        if value:
            return value
        if time.monotonic() > end:
            raise DidNotHappen(f"{what}: not within {deadline_s:.0f} s")
        await asyncio.sleep(poll_s)


class Installation:
    """``tracebility up`` on ``folder``. Use as an async context manager, or `start` and `stop` it."""

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, workers: int = WORKERS
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data_dir = folder / "data"
        self.log = folder / "up.log"
        self.arguments = ("--workers", str(workers), *arguments)
        self.environment = dict(environment or {})
        self.port = free_port()
        self._ready_file = folder / "ready.json"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> "Installation":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self, deadline_s: float = START_DEADLINE_S, **environment: str) -> float:
        """Start and wait until all is ready; the seconds that took. ``environment`` holds for this start alone."""
        self._ready_file.unlink(missing_ok=True)
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it only forks
                [
                    *(str(Path(sys.executable).parent / "tracebility"), "up", "--data-dir", str(self.data_dir)),
                    *("--port", str(self.port), "--ready-file", str(self._ready_file)),
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**_outside(), **self.environment, **environment},
                start_new_session=True,
            )
        try:
            await until("ready", self._is_up, deadline_s)
        except BaseException:
            self.kill_everything()
            raise
        return time.monotonic() - began

    def _is_up(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise AssertionError(f"`tracebility up` ended with {code} before it was ready:\n{self.last_lines()}")
        return self._ready_file.exists()

    async def stop(self) -> float:
        """End politely; the seconds that took. What does not end is killed, and told."""
        if self._process is None:
            return 0.0
        process, self._process = self._process, None
        family = _family(process.pid)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            await until("a clean end after SIGTERM", lambda: process.poll() is not None, STOP_DEADLINE_S)
        except DidNotHappen:
            _kill(family)
            process.wait()
            raise
        left = _alive(family)
        _kill(left)
        assert not left, f"left behind by a clean end: {left}"
        return time.monotonic() - began

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file as it is now; pids change when something was restarted."""
        document: dict[str, Any] = json.loads((self.data_dir / "ready.json").read_text())
        return document

    @property
    def supervisor(self) -> int:
        """The pid of ``tracebility up`` itself."""
        assert self._process is not None
        return self._process.pid

    def pids(self) -> dict[str, int]:
        """Every store and target, and the supervisor."""
        return {**self.ready["pids"], "supervisor": self.supervisor}

    def headers(self) -> dict[str, str]:
        """What a client of the first tenant sends."""
        return {"authorization": f"Bearer {self.ready['api_key']}"}

    def get(self, path: str, timeout_s: float = 5.0) -> Any:
        """The JSON that a GET with the first tenant's key answers."""
        with urlopen(Request(self.ready["url"] + path, headers=self.headers()), timeout=timeout_s) as response:
            return json.load(response)

    def kill(self, *names: str) -> dict[str, int]:
        """``kill -9`` of stores and targets by name; the pids that were hit."""
        pids = self.pids()
        hit = {name: pids[name] for name in names}
        for pid in hit.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return hit

    def halt(self, name: str) -> None:
        """Freeze a store or target: it answers nothing and closes nothing, until it is killed or resumed."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids()[name], signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a halted one go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids()[name], signal.SIGCONT)

    def kill_everything(self) -> None:
        """``kill -9`` of the supervisor and of all that belongs to it, as a power cut would."""
        assert self._process is not None
        _kill(_family(self._process.pid))
        self._process.wait()
        self._process = None

    async def kill_supervisor(self, deadline_s: float = 10.0) -> None:
        """``kill -9`` of the supervisor alone; its children must follow it by themselves."""
        assert self._process is not None
        family = _family(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        try:
            await until("children that die with their parent", lambda: not _alive(family), deadline_s)
        except DidNotHappen as error:
            left = _alive(family)
            _kill(left)
            raise DidNotHappen(f"{error}; alive were {left}") from None

    async def recovered(self, hit: Mapping[str, int], deadline_s: float = RECOVERY_DEADLINE_S) -> float:
        """Wait until all in ``hit`` runs under new pids and the installation is ready; the seconds that took."""
        began = time.monotonic()

        def is_back() -> bool:
            pids = self.pids()
            return all(pids.get(name, pid) != pid for name, pid in hit.items()) and self.is_ready()

        await until(f"recovery of {', '.join(hit)}", is_back, deadline_s)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        """Whether the edge and, behind it, the API say that they are ready. Stores alone have nobody to ask."""
        if not self.ready["url"]:
            return True
        try:
            with urlopen(f"{self.ready['url']}/readyz", timeout=2) as answer:
                if json.load(answer)["missing"]:
                    return False
            if self.ready.get("api_key"):
                self.get("/v1/projects", timeout_s=2)
        except (URLError, OSError, ValueError):
            return False
        return True

    def last_lines(self, count: int = 40) -> str:
        """The end of everything that ``tracebility up`` said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def _outside() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_")}


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _alive(family: Iterable[psutil.Process]) -> list[psutil.Process]:
    def lives(child: psutil.Process) -> bool:
        try:
            return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it went between the two questions
            return False

    return list(filter(lives, family))


def _kill(family: Iterable[psutil.Process]) -> None:
    for process in family:  # first freeze all, so that nobody sees another die and tidies up
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(family), timeout=10)
