"""``tracebility up``: starts stores and targets in order, restarts those that end, and stops them in order."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracebility.embedded import probes
from tracebility.embedded.console import Console
from tracebility.embedded.first_trace import first_trace
from tracebility.embedded.installation import DataDir, write_private
from tracebility.embedded.process import Process, Program, describe_exit
from tracebility.embedded.service import CONFIGURATION_EXIT, Service, StartFailed
from tracebility.embedded.start_latch import StartLatch
from tracebility.embedded.stores import Stores
from tracebility.errors import ConfigurationError
from tracebility.targets import listen

# The shutdown takes less than 10 s: the edge drains, then the other targets stop, then the stores.
TARGET_GRACE_S = 2.3
STORE_GRACE_S = 4.0

TENANT_FILE = "tenant.json"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """Options of ``tracebility up``."""

    data_dir: Path
    host: str
    port: int
    ready_file: Path | None = None
    web: bool = True
    only_stores: bool = False
    workers: int = 1


def default_workers() -> int:
    """One worker for every two cores, at most four.

    On two cores one worker stores more than two do: batches are larger, and the engine is the bottleneck.
    """
    return max(1, min(len(os.sched_getaffinity(0)) // 2, 4))


class Supervisor:
    """Runs one installation once."""

    def __init__(self, options: UpOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._began = time.monotonic()
        self._stop = asyncio.Event()
        self._hurry = False
        self._ready_files: list[Path] = []
        self._targets: list[Service] = []
        self._one_offs: list[Process] = []
        self._stores_answer = StartLatch()
        self._prepared = StartLatch()
        self._tenant: dict[str, Any] = {}

    async def run(self) -> int:
        """Run until a signal ends it, and return the exit code.

        Raises:
            ConfigurationError: when it cannot start; the text is one line.
            StartFailed: when a store or target does not become ready.
        """
        loop = asyncio.get_running_loop()
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        asking = (signal.SIGINT, signal.SIGTERM) if nohup else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in asking:
            loop.add_signal_handler(number, self._asked_to_stop)
        self._data = DataDir.open(self._options.data_dir)
        self._listeners: list[socket.socket] = []
        try:
            self._ready_files = [self._data.path / "ready.json"]
            if self._options.ready_file is not None:
                self._ready_files.append(self._options.ready_file.expanduser().absolute())
            self._forget_ready()
            if not self._options.only_stores:
                self._listeners = listen(self._options.host, self._options.port, hint="Choose another with --port.")
            self._stores = Stores.plan(self._data, os.environ, self._console.line)
            starting = loop.create_task(self._start())
            stopping = loop.create_task(self._stop.wait())
            try:
                await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await stopping
            finally:
                for task in (starting, stopping):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, StartFailed, ConfigurationError):
                        await task
                await self._end()
        finally:
            self._close_listeners()
            self._data.close()
            for number in asking:  # Everything has ended: ignore another Ctrl-C, which would print an error.
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        return 0

    # -- start --------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        with self._step(f"Data directory {self._data.path}"):
            pass
        # Loading Python modules takes most of a start, so targets and the migration load them while the stores start.
        if not self._options.only_stores:
            self._targets = self._plan_targets()
            for target in self._targets:
                target.start()
        preparing = asyncio.create_task(self._prepare())
        try:
            await self._all_of(self._bring_up(service) for service in self._stores.services)
            self._stores_answer.open()
            with self._step("Schemas are up to date, the first tenant is there"):
                await preparing
        finally:
            preparing.cancel()
        self._prepared.open()
        await self._all_of(self._becomes_ready(target) for target in self._targets)
        for service in (*self._stores.services, *self._targets):
            service.started = self._write_ready
        self._write_ready()
        self._console.show_stores()
        document = self._document()
        self._console.document(document)
        self._console.text(first_trace(document, time.monotonic() - self._began))

    async def _all_of(self, several: Iterable[Coroutine[Any, Any, None]]) -> None:
        waiting = [asyncio.ensure_future(one) for one in several]
        try:
            await asyncio.gather(*waiting)
        finally:
            for one in waiting:
                one.cancel()

    async def _bring_up(self, store: Service) -> None:
        postgres = self._stores.postgres
        if store.name == "postgres" and postgres is not None and not postgres.is_made():
            with self._step("Made the PostgreSQL cluster"):
                await postgres.make(self._run_to_end)
        store.start()
        await self._becomes_ready(store)

    async def _becomes_ready(self, service: Service) -> None:
        with self._step(f"{service.name} is ready"):
            await service.ready()

    async def _prepare(self) -> None:
        tenant_file = self._data.path / TENANT_FILE
        argv = [sys.executable, "-m", "tracebility.embedded.prepare", str(tenant_file)]
        environment = self._stores.environment() | self._stores_answer.environment
        descriptors = (self._stores_answer.descriptor,)
        await self._run_to_end(Program("prepare", argv, environment=environment, descriptors=descriptors))
        self._tenant = json.loads(tenant_file.read_text())

    async def _run_to_end(self, program: Program) -> None:
        process = await Process.start(program, self._data.run, lambda name, line: None)
        self._one_offs.append(process)
        code = await process.ended()
        self._one_offs.remove(process)
        lines = list(process.last_lines)
        if code == CONFIGURATION_EXIT and lines:
            raise ConfigurationError(lines[-1].removeprefix("tracebility: "))
        if code != 0:
            raise StartFailed(f"{program.name} failed ({describe_exit(code)})", lines)

    def _plan_targets(self) -> list[Service]:
        sockets = self._data.sockets()
        api_socket = sockets / "api.sock"
        operator_socket = sockets / "operator.sock"
        host, port = self._address()
        descriptors = [listener.fileno() for listener in self._listeners]
        edge = {
            "TRACEBILITY_LISTEN_FDS": ",".join(map(str, descriptors)),
            "TRACEBILITY_API_SOCKET": str(api_socket),
            "TRACEBILITY_SPOOL_DIR": str(self._data.path / "spool"),
        }
        # Huge pages for the worker's 40 MB batches make mapping and encoding 15 % cheaper.
        huge_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        workers = ["ingest-worker", *(f"ingest-worker-{number}" for number in range(2, self._options.workers + 1))]
        # The operator's threads only resolve host names: a malloc arena for each would waste memory.
        small_heap = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=131072"}
        others = ",".join(f"{name}={sockets / f'{name}.sock'}" for name in (*workers, "operator", "api"))
        edge["TRACEBILITY_METRICS_SOCKETS"] = others
        return [
            *(self._target("ingest-worker", huge_pages, name=name, path=sockets / f"{name}.sock") for name in workers),
            self._target("operator", small_heap, path=operator_socket),
            self._target("api", {}, path=api_socket, reader=True),
            self._target("ingest-api", edge, host=host, port=port, descriptors=descriptors),
        ]

    def _address(self) -> tuple[str, int]:
        """The address at which local clients reach the first listening socket."""
        host, port = self._listeners[0].getsockname()[:2]
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - compared, not bound

    def _target(
        self,
        target: str,
        environment: dict[str, str],
        *,
        name: str = "",
        path: Path | None = None,
        host: str = "",
        port: int = 0,
        reader: bool = False,
        descriptors: Sequence[int] = (),
    ) -> Service:
        name = name or target
        listen_on = {"TRACEBILITY_LISTEN_SOCKET": str(path)} if path is not None else {}
        program = Program(
            name,
            [sys.executable, "-m", "tracebility.targets", target],
            environment=self._stores.environment(reader=reader) | self._prepared.environment | listen_on | environment,
            descriptors=(self._prepared.descriptor, *descriptors),
        )

        async def probe(pid: int) -> str:
            return await probes.http("/readyz", host=host, port=port, path=path, pid=pid)

        return Service(name, lambda: program, probe, self._data.run, self._console.line)

    # -- the ready file -----------------------------------------------------------------------------------------------

    def _document(self) -> dict[str, Any]:
        services = (*self._stores.services, *self._targets)
        url = ""
        if self._listeners:
            host, port = self._address()
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return {
            "url": url,
            **self._tenant,
            "otlp_grpc": None,
            "pids": {service.name: service.process.pid for service in services if service.process is not None},
            "pg_dsn": self._stores.pg_dsn,
            "redis_url": self._stores.redis_url,
            "redis_stream_url": self._stores.redis_stream_url or None,
            "clickhouse_url": self._stores.clickhouse_url,
            "clickhouse_reader_url": self._stores.clickhouse_reader_url,
            "data_dir": str(self._data.path),
            "supervisor_pid": os.getpid(),
        }

    def _write_ready(self) -> None:
        for path in self._ready_files:
            try:
                write_private(path, self._document())
            except OSError as error:
                self._console.line("up", f"{path} cannot be written: {error.strerror}")

    def _forget_ready(self) -> None:
        for path in self._ready_files:
            path.unlink(missing_ok=True)

    # -- end ----------------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        if not self._stop.is_set():
            self._console.line("up", "Stopping; press Ctrl-C again to hurry")
            self._stop.set()
            return
        self._hurry = True
        for service in (*self._targets, *self._stores.services):
            service.kill()

    async def _end(self) -> None:
        """Stop the edge first, so that all accepted data is queued; then the other targets; then the stores."""
        began = time.monotonic()
        self._console.hide_stores()
        self._forget_ready()
        self._close_listeners()
        await asyncio.gather(*(process.stop(STORE_GRACE_S) for process in self._one_offs))
        edge = [service for service in self._targets if service.name == "ingest-api"]
        inner = [service for service in self._targets if service.name != "ingest-api"]
        for group, grace_s in ((edge, TARGET_GRACE_S), (inner, TARGET_GRACE_S), (self._stores.services, STORE_GRACE_S)):
            await asyncio.gather(*(service.stop(0.0 if self._hurry else grace_s) for service in group))
        self._stores.close()
        self._console.line("up", f"Stopped in {time.monotonic() - began:.1f} s")

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    @contextlib.contextmanager
    def _step(self, text: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._console.step(text, time.monotonic() - began)


def up(options: UpOptions, console: Console) -> int:
    """Run an installation until a signal ends it, and return the exit code."""
    try:
        return asyncio.run(Supervisor(options, console).run())
    except StartFailed as failed:
        for line in failed.last_lines:
            sys.stderr.write(f"    {line}\n")
        sys.stderr.write(f"tracebility: {failed}\n")
        return 1
    except OSError as error:  # For example a full disk, or a folder that has become read-only.
        sys.stderr.write(f"tracebility: {error.filename or 'The start failed'}: {error.strerror}\n")
        return 1
