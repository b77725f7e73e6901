"""Consumer names of worker processes: create one, tell whether its process has ended, and remove old ones."""

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import GROUP

# A consumer that is idle for this long is removed. Until then its name costs Redis a hundred bytes.
FORGET_AFTER_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of a stream: its pending entries, and its idle time."""

    name: str
    pending: int
    idle_ms: int


def new_name() -> str:
    """Return a unique consumer name from which processes on this machine can tell whether its process still runs."""
    return f"{_host()}/{os.getpid()}/{_start_of(os.getpid()) or '?'}/{secrets.token_hex(4)}"


def is_gone(name: str) -> bool:
    """Whether the process of ``name`` has certainly ended. False for other machines, whose processes are unknown."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != _host() or not parts[1].isdigit() or not parts[2].isdigit():
        return False
    return _start_of(int(parts[1])) != parts[2]


async def consumers(queue: Queue, streams: Sequence[str]) -> dict[str, list[Consumer]]:
    """Return the consumers of each stream."""
    replies = await queue._pipeline([("XINFO", "CONSUMERS", stream, GROUP) for stream in streams])
    found: dict[str, list[Consumer]] = {}
    for stream, reply in zip(streams, replies, strict=True):
        rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in reply]
        found[stream] = [Consumer(row[b"name"].decode(), int(row[b"pending"]), int(row[b"idle"])) for row in rows]
    return found


async def forget(queue: Queue, places: Sequence[tuple[str, str]]) -> None:
    """Remove consumers, each a stream and a name. They must have no pending entries, which would be lost."""
    await queue._pipeline([("XGROUP", "DELCONSUMER", stream, GROUP, name) for stream, name in places])


def _host() -> str:
    """Identify this machine, boot and PID namespace, so that a pid from elsewhere is not mistaken for a local one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}.{boot}.{space}"


def _start_of(process: int) -> str | None:
    """Return when a local process started, in clock ticks since boot; None when that cannot be read."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]
