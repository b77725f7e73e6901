"""A child process and its descendants. They cannot outlive us, and we wait until the last of them has ended.

Each child inherits a locked file and passes it on to its own children. The lock is released when the last of them has
ended, in whatever way, so neither a restart nor the next ``up`` relies on pids.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tracebility.errors import TracebilityError

LAST_LINES = 20
LINE_BYTES = 4000  # Longer lines are cut. Below PIPE_BUF, so that the write of a line cannot block in the middle.
READ_BYTES = 1 << 16
FAMILY_GRACE_S = 5.0  # Descendants of a dead child that live longer than this are killed.
FAMILY_POLL_S = 0.02

_PR_SET_PDEATHSIG = 1

LineSink = Callable[[str, str], None]


class WillNotEnd(TracebilityError):
    """Processes of an earlier run are alive and cannot be killed."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command line, its environment, and the signals for a graceful stop, an immediate stop, and our death."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    stop: signal.Signals = signal.SIGTERM
    kill: signal.Signals = signal.SIGKILL
    orphaned: signal.Signals = signal.SIGKILL
    stdin: bytes = b""  # The capacity of a pipe.
    before_start: Callable[[], None] | None = None  # Called when no process of an earlier start is alive.
    before_exec: Callable[[], None] | None = None  # Called in the child.
    descriptors: Sequence[int] = ()


class Process:
    """A started ``Program``. Each line of its output is passed to ``on_line(name, line)``; the last lines are kept."""

    def __init__(self, program: Program, popen: subprocess.Popen[bytes], on_line: LineSink) -> None:
        self.program = program
        self.pid = popen.pid
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._popen = popen
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._rest = b""
        assert popen.stdout is not None
        self._output = popen.stdout.fileno()
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._read)
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._reap)

    @classmethod
    async def start(cls, program: Program, locks: Path, on_line: LineSink) -> "Process":
        """Start ``program`` after all processes of its previous start have ended.

        Raises:
            WillNotEnd: when one of those cannot be killed.
            OSError: when the program cannot be started.
        """
        lock = await _family_lock(locks / f"{program.name}.lock")
        stdin = _pipe_holding(program.stdin)
        try:
            if program.before_start is not None:
                program.before_start()
            popen = subprocess.Popen(  # noqa: ASYNC220 - it only forks; the process is watched by the loop
                program.argv,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=program.folder,
                env={**os.environ, **program.environment},
                # A separate session: Ctrl-C in the terminal reaches only us, so we decide the order of the shutdown.
                start_new_session=True,
                pass_fds=(lock, *program.descriptors),
                # There is only this thread, so running Python between fork and exec is safe.
                preexec_fn=_bound_to_parent(program),
            )
        finally:
            os.close(stdin)
            os.close(lock)
        return cls(program, popen, on_line)

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while the process runs. As in ``subprocess``, a negative number is a signal."""
        return self._ended.result() if self._ended.done() else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still exists."""
        if not self._ended.done():
            self._popen.send_signal(number)

    async def ended(self) -> int:
        """Wait until the process has ended and its output is read; return the exit code."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> None:
        """Stop the process gracefully; kill it after ``grace_s``."""
        self.send(self.program.stop)
        for number, patience_s in ((self.program.kill, grace_s), (signal.SIGKILL, 1.0)):
            try:
                await asyncio.wait_for(self.ended(), patience_s)
            except TimeoutError:
                self.send(number)
            else:
                return
        await self.ended()

    def _read(self) -> None:
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._output)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_BYTES or (not data and self._rest):
            lines.append(self._rest)
            self._rest = b""
        for raw in lines:
            line = raw[:LINE_BYTES].decode(errors="replace").rstrip()
            if line:
                self.last_lines.append(line)
                self._on_line(self.program.name, line)

    def _reap(self) -> None:
        code = self._popen.poll()
        if code is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # The child's last output is in the pipe. A grandchild may keep the pipe open, so do not wait for its end.
        self._read()
        self._loop.remove_reader(self._output)
        if self._rest:
            self.last_lines.append(self._rest[:LINE_BYTES].decode(errors="replace"))
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._ended.set_result(code)


def describe_exit(code: int) -> str:
    """``code`` as text: an exit code, or the name of a signal."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


async def _family_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    clock = asyncio.get_running_loop().time
    kill_at = clock() + FAMILY_GRACE_S
    give_up_at = kill_at + FAMILY_GRACE_S
    try:
        while not _try_lock(descriptor):
            if clock() > give_up_at:
                pids = ", ".join(map(str, _holders(path))) or "unknown pids"
                raise WillNotEnd(f"Processes of an earlier run still hold {path} and cannot be ended: {pids}.")
            if clock() > kill_at:
                kill_at += 1.0
                for pid in _holders(path):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(FAMILY_POLL_S)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pipe_holding(data: bytes) -> int:
    if not data:
        return os.open(os.devnull, os.O_RDONLY)
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


def _holders(path: Path) -> list[int]:
    """Processes other than this one that have ``path`` open."""
    target = str(path)
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{entry.name}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor.path) == target:
                        found.append(int(entry.name))
                        break
    return found


def _bound_to_parent(program: Program) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def before_exec() -> None:
        # A change of user clears the parent-death signal, so it comes first.
        if program.before_exec is not None:
            program.before_exec()
        libc.prctl(_PR_SET_PDEATHSIG, int(program.orphaned), 0, 0, 0)
        # The parent may have died before the line above: then no signal will come.
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
