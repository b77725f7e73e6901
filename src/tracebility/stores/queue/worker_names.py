"""The worker processes that read the queue: who they are, whether one is gone for good, and what it left behind."""

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import GROUP

# Nobody is paused for an hour and still of use. A name costs the store a hundred bytes until then.
FORGET_AFTER_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Consumer:
    """One reader of a stream: entries it was given and has not acknowledged, and how long it has been silent."""

    name: str
    pending: int
    idle_ms: int


def new_name() -> str:
    """A consumer name that nobody had before, and that tells processes of this machine whether its own still runs."""
    return f"{_host()}/{os.getpid()}/{_start_of(os.getpid()) or '?'}/{secrets.token_hex(4)}"


def is_gone(name: str) -> bool:
    """Whether the process that had ``name`` is known to have ended. Of another machine's nothing is known."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != _host() or not parts[1].isdigit() or not parts[2].isdigit():
        return False
    return _start_of(int(parts[1])) != parts[2]


async def consumers(queue: Queue, streams: Sequence[str]) -> dict[str, list[Consumer]]:
    """Who reads each stream."""
    replies = await queue._pipeline([("XINFO", "CONSUMERS", stream, GROUP) for stream in streams])
    found: dict[str, list[Consumer]] = {}
    for stream, reply in zip(streams, replies, strict=True):
        rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in reply]
        found[stream] = [Consumer(row[b"name"].decode(), int(row[b"pending"]), int(row[b"idle"])) for row in rows]
    return found


async def forget(queue: Queue, places: Sequence[tuple[str, str]]) -> None:
    """Remove consumers, each a stream and a name. Only for those with nothing pending: that would be lost with them."""
    await queue._pipeline([("XGROUP", "DELCONSUMER", stream, GROUP, name) for stream, name in places])


def _host() -> str:
    """This machine's boot, so that a process of an earlier one is not taken for alive, nor one of another machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}.{boot}.{space}"


def _start_of(process: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot; None when there is none, or no way to know."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]
