"""``python -m tracebility_engine``: serve one data directory on one port until SIGTERM or SIGINT."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from tracebility_engine import lock
from tracebility_engine.app import Front
from tracebility_engine.host import EngineHost
from tracebility_engine.log import capture_logging, log
from tracebility_engine.settings import FrontSettings, StartRefused, from_environment

_BACKLOG = 512
_KEEP_ALIVE_S = 300


def main() -> int:
    """Run until SIGTERM or SIGINT. 0 after a clean stop, 1 when the start is refused, with one line that says why."""
    arguments = _arguments()
    capture_logging()
    try:
        settings = from_environment(arguments.data_dir, arguments.host, arguments.port)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.own(settings.data_dir)
        listener = _listen(settings)
    except (StartRefused, OSError) as error:
        log("refused", level="error", detail=str(error))
        return 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener))
    # The engine's threads would otherwise be joined one by one; everything acknowledged is in the kernel's hands.
    sys.stderr.flush()
    os._exit(0)


class _Server(uvicorn.Server):
    """Handles no signals itself: the engine is closed after the last request, before the process ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


async def _serve(settings: FrontSettings, listener: socket.socket) -> None:
    spool = settings.data_dir / "bodies"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(mode=0o700)
    host = await EngineHost.open(settings)
    front = Front(settings, host, spool)
    config = uvicorn.Config(
        front,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.stop_timeout_s,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    port = listener.getsockname()[1]
    ready = {"port": port, "pid": os.getpid(), "version": host.engine.version}
    log("ready", **ready)
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await host.give_memory_back()
    maintenance = asyncio.ensure_future(front.maintain())
    await server.serve(sockets=[listener])
    maintenance.cancel()
    log("stopping")
    await host.close()
    log("stopped")


def _listen(settings: FrontSettings) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.proof_key:  # Then our parent keeps the port reserved, with a socket that lets only this user listen.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(_BACKLOG)
    return listener


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tracebility_engine", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="where the data is kept")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
