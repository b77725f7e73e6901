"""The lock of a data directory: one process owns it. The kernel releases it when the process ends, also by kill -9."""

import fcntl
import os
from pathlib import Path

from tracebility_engine.settings import StartRefused


def own(data_dir: Path) -> int:
    """Lock the directory for as long as this process lives.

    Raises:
        StartRefused: another process holds the lock; the text names its pid.
    """
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode().strip()
        os.close(lock)
        raise StartRefused(f"{data_dir} is in use by process {owner}. Stop it, or use another directory.") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock
