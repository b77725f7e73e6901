"""Runs `tracebility` commands in forks of a process that has imported them all: the imports are most of their time.

`install` writes a program ``tracebility`` that hands its arguments, environment and standard streams to that process.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracebility import cli

# What a command imports only when it opens a store, besides its own file.
CLIENTS = (
    "stores.clickhouse",
    "stores.postgres",
    "stores.queue",
    "stores.redis_control",
    "stores.changes",
    "telemetry",
)

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [request], [0, 1, 2])
    sys.exit(int(server.recv(4) or b"1"))
"""


@contextmanager
def install(folder: Path) -> Iterator[None]:
    """Put the program into ``folder``, and serve it for the length of the block."""
    path = folder / "commands.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        arguments = [sys.executable, "-m", "tests.harness.command_server", str(listener.fileno())]
        server = subprocess.Popen(arguments, cwd=Path(__file__).parents[2], pass_fds=[listener.fileno()])
        program = folder / "tracebility"
        program.write_text(CLIENT.format(python=sys.executable, path=str(path)))
        program.chmod(0o755)
        try:
            yield
        finally:
            server.kill()
            server.wait()


def serve(listener: socket.socket) -> None:
    for name in (*(f"commands.{name}" for name in cli.COMMANDS), *CLIENTS):
        importlib.import_module(f"tracebility.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        with connection:
            request, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
            if os.fork() == 0:
                run(connection, streams, *json.loads(request))
            for stream in streams:
                os.close(stream)


def run(connection: socket.socket, streams: list[int], arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["tracebility", *arguments]
    code: object = 1
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(code or 0).encode())
        os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
