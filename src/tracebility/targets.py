"""Runs a target by name: reads the settings, serves until SIGTERM or SIGINT, and returns an exit code.

A target is imported only when it is run, so that a process holds only what it needs.
"""

import asyncio
import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracebility.errors import ConfigurationError, TracebilityError

if TYPE_CHECKING:
    from tracebility.config import Settings

TARGETS = ("ingest-api", "ingest-worker", "api", "operator", "all")
NOT_YET = ("eval-orchestrator",)

CONFIGURATION_EXIT = 2
BACKLOG = 2048
# Requests in flight get this long when a target is told to end; `tracebility up` allows it a little more.
DRAIN_S = 2
# Longer than the 60 s that load balancers and clients keep an idle connection, so that they close first and no request
# meets a closing socket.
KEEP_ALIVE_S = 75

LOOPBACK_IPV4, LOOPBACK_IPV6 = "127.0.0.1", "::1"
FREE_PORT_ATTEMPTS = 20

App = Callable[[Any, Any, Any], Awaitable[None]]


def run(name: str) -> int:
    """Run the target ``name`` and return its exit code. A wrong setting is one line on standard error."""
    try:
        serve = _serving(name)
        return _run(name, serve)
    except ConfigurationError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        return CONFIGURATION_EXIT
    except TracebilityError as error:
        from tracebility.config import redact

        sys.stderr.write(f"tracebility: {name}: {redact(str(error))}\n")
        return 1


def _serving(name: str) -> Callable[["Settings", asyncio.Event], Awaitable[None]]:
    if name in NOT_YET:
        raise ConfigurationError(f"This version has no target '{name}'. It has {', '.join(TARGETS)}.")
    if name not in TARGETS:
        raise ConfigurationError(f"There is no target '{name}'. Choose one of {', '.join(TARGETS)}.")
    return {
        "ingest-api": _ingest_api,
        "ingest-worker": _ingest_worker,
        "api": _api,
        "operator": _operator,
        "all": _all,
    }[name]


def _run(name: str, serve: Callable[["Settings", asyncio.Event], Awaitable[None]]) -> int:
    import uvloop

    from tracebility.config import load_settings
    from tracebility.telemetry import configure_logging

    settings = load_settings()
    configure_logging(name)
    _take_all_descriptors()
    for module in _MODULES[name]:
        importlib.import_module(module)
    wait_for_start(settings)

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, stop)

    uvloop.run(main())
    return 0


def _take_all_descriptors() -> None:
    """Raise the limit of open files to the maximum of this user: the usual 1,024 is too low for connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def wait_for_start(settings: "Settings") -> None:
    """Wait until the parent process opens its start latch: modules are loaded while the stores start."""
    if settings.start_fd is not None:
        with contextlib.suppress(OSError):
            os.read(settings.start_fd, 1)


# What each target loads before it waits for its stores.
_EDGE = ("tracebility.ingest.app", "tracebility.ingest.service")
_API = ("tracebility.api.app", "tracebility.api.service")
_WORKER = ("tracebility.health", "tracebility.worker.service")
_OPERATOR = ("tracebility.health", "tracebility.operator.service")
_MODULES = {
    "ingest-api": _EDGE,
    "ingest-worker": _WORKER,
    "api": _API,
    "operator": _OPERATOR,
    "all": _EDGE + _API + _WORKER + _OPERATOR,
}


async def _ingest_api(settings: "Settings", stop: asyncio.Event) -> None:
    from tracebility.ingest.app import create_app
    from tracebility.ingest.service import open_services

    async with open_services(settings) as services:
        await _serve_http(create_app(services), settings, stop)


async def _api(settings: "Settings", stop: asyncio.Event) -> None:
    from tracebility.api.app import create_app
    from tracebility.api.service import open_services

    async with open_services(settings) as services:
        await _serve_http(create_app(services), settings, stop)


async def _ingest_worker(settings: "Settings", stop: asyncio.Event) -> None:
    from tracebility.health import create_app, needs_every_store
    from tracebility.worker.service import open_services

    async with open_services(settings) as services:
        consuming = asyncio.create_task(services.consume(stop))
        consuming.add_done_callback(lambda _: stop.set())
        await _serve_http(
            create_app(services.metrics.all, partial(needs_every_store, services.missing_stores)), settings, stop
        )
        await consuming


async def _operator(settings: "Settings", stop: asyncio.Event) -> None:
    from tracebility.health import create_app, needs_every_store
    from tracebility.operator.service import open_services

    async with open_services(settings) as services:
        leading = asyncio.create_task(services.lead(stop))
        leading.add_done_callback(lambda _: stop.set())
        await _serve_http(
            create_app(services.metrics.all, partial(needs_every_store, services.missing_stores)), settings, stop
        )
        await leading


async def _all(settings: "Settings", stop: asyncio.Event) -> None:
    import msgspec

    from tracebility.api.app import create_app as create_api
    from tracebility.api.service import open_services as open_api
    from tracebility.ingest.app import create_app as create_edge
    from tracebility.ingest.service import open_services as open_edge
    from tracebility.operator.service import run as run_operator
    from tracebility.worker.service import run as run_worker

    # This process writes to ClickHouse as its owner anyway. A reader's URL still keeps reads of tenants apart.
    reads = msgspec.structs.replace(settings, api_as_owner=True)
    # The edge ends first; what it accepted is drained as far as the time allows, the rest stays in the queue.
    edge_ended = asyncio.Event()
    async with open_api(reads) as api, open_edge(settings) as edge:
        worker = asyncio.create_task(run_worker(settings, edge_ended))
        operator = asyncio.create_task(run_operator(settings, stop))
        for inner in (worker, operator):
            inner.add_done_callback(lambda _: stop.set())
        try:
            await _serve_http(create_edge(edge, create_api(api)), settings, stop)
        finally:
            edge_ended.set()
            await asyncio.gather(worker, operator)


async def _serve_http(app: App, settings: "Settings", stop: asyncio.Event) -> None:
    """Serve ``app`` on what the settings name until ``stop``; requests in flight are finished."""
    import uvicorn

    from tracebility.http_protocol import HttpProtocol

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # The signals are ours: they end more than the listener.

    # Objects of now live as long as the process. Collecting garbage among them would delay an answer by 25 ms.
    gc.collect()
    gc.freeze()
    async with _listening(settings) as listeners:
        server = Server(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=not settings.listen_socket,  # Behind a socket, the edge in front of it says the date.
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )

        async def end() -> None:
            await stop.wait()
            server.should_exit = True

        ending = asyncio.create_task(end())
        try:
            await server.serve(sockets=listeners)
        finally:
            ending.cancel()


@asynccontextmanager
async def _listening(settings: "Settings") -> AsyncIterator[list[socket.socket]]:
    if settings.listen_fds:
        try:
            inherited = [socket.socket(fileno=int(number)) for number in settings.listen_fds.split(",")]
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"TRACEBILITY_LISTEN_FDS names no open sockets ({error}). Only 'tracebility up' sets it: unset it."
            ) from None
        yield inherited
    elif settings.listen_socket:
        with _unix_listener(Path(settings.listen_socket)) as made:
            yield [made]
    else:
        yield listen(settings.host, settings.port, hint="Set TRACEBILITY_PORT (and TRACEBILITY_HOST) to a free one.")


@contextmanager
def _unix_listener(path: Path) -> Iterator[socket.socket]:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # An earlier process's: a unix socket does not vanish with its listener.
        mask = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(mask)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ConfigurationError(
            f"TRACEBILITY_LISTEN_SOCKET {path} cannot be listened on: {error.strerror}. Name another path."
        ) from None
    try:
        yield made
    finally:
        path.unlink(missing_ok=True)


def listen(host: str, port: int, *, hint: str) -> list[socket.socket]:
    """Listening TCP sockets: one, or for ``localhost`` one on each loopback address that this machine has.

    Clients that look ``localhost`` up may try ::1 first. Port 0 takes one that is free on all of them.

    Raises:
        ConfigurationError: when the port is taken or not allowed, ending in ``hint``.
    """
    hosts = [LOOPBACK_IPV4, *([LOOPBACK_IPV6] if _has_ipv6() else [])] if host == "localhost" else [host]
    for attempt in range(FREE_PORT_ATTEMPTS):
        listeners: list[socket.socket] = []
        for address in hosts:
            chosen = listeners[0].getsockname()[1] if listeners else port
            try:
                listeners.append(_tcp_listener(address, chosen))
            except OSError as error:
                for listener in listeners:
                    listener.close()
                if port == 0 and listeners and attempt + 1 < FREE_PORT_ATTEMPTS:
                    break  # Free on the first address, taken on this one.
                raise ConfigurationError(
                    f"Port {chosen} on {address} cannot be used: {error.strerror}. {hint}"
                ) from None
        else:
            return listeners
    raise AssertionError("unreachable")


def _tcp_listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((LOOPBACK_IPV6, 0))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
