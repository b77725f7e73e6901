"""The files of the disk buffer: append-only segments, named by shard, in a directory with one writer.

Every function here blocks, and runs on the disk buffer's own thread.
"""

import contextlib
import fcntl
import os
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tracebility.errors import ConfigurationError
from tracebility.failpoints import failpoint
from tracebility.ids import OrgId
from tracebility.ingest.disk_buffer import records

# A segment is deleted as a whole, so a crash in the middle of its replay sends at most this much again.
SEGMENT_BYTES = 16 << 20

_NAME = re.compile(r"s(\d\d)(?:-([0-9a-f]{32}))?-(\d{12})-([0-9a-f]{8})\.spool")
_QUARANTINE_SUFFIX = ".damaged"
_WRITE_PARTS = 512  # below every system's IOV_MAX

ChainKey = tuple[int, str]  # the shard, and the org in hex when the chain is one org's own


@dataclass(eq=False, slots=True)
class Segment:
    """One file. ``size`` is its flushed length; bytes behind it were never acknowledged."""

    path: Path
    key: ChainKey
    number: int
    nonce: int
    size: int = 0
    by_org: Counter[bytes] = field(default_factory=Counter)
    first_us: int | None = None  # when its first record was accepted; None if unreadable
    fd: int | None = None  # while it is written to

    @property
    def shard(self) -> int:
        return self.key[0]


@dataclass(eq=False, slots=True)
class Job:
    """The envelopes of one request, written all or none."""

    shard: int
    org_id: OrgId
    entries: list[dict[str, bytes]]
    own_chain: bool
    size: int
    accepted_at_us: int | None

    @property
    def key(self) -> ChainKey:
        return self.shard, self.org_id.hex if self.own_chain else ""


@dataclass(slots=True)
class Committed:
    """The result of a batch of jobs: new segments, and the error of each job that is not on disk."""

    begun: list[Segment] = field(default_factory=list)
    failed: dict[int, OSError] = field(default_factory=dict)


class Directory:
    """The folder, its lock, and the segments being written."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigurationError, when the folder cannot be used or another process writes to it."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"TRACEBILITY_SPOOL_DIR {path} cannot be used: {error.strerror}. Name a folder on a local disk."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._lock, 20).decode(errors="replace").strip() or "another process"
            self.close()
            raise ConfigurationError(
                f"TRACEBILITY_SPOOL_DIR {path} is in use by process {holder}. Give each ingest-api its own folder."
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        self._path = path
        self._open: dict[ChainKey, Segment] = {}
        self._next_number = 1

    def leftovers(self) -> list[Segment]:
        """Segments of earlier processes, oldest first."""
        found = []
        for entry in self._path.iterdir():
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            size = entry.stat().st_size
            segment = Segment(entry, (int(match[1]), match[2] or ""), int(match[3]), int(match[4], 16), size)
            fd = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
            try:
                segment.by_org.update(records.owners(fd, size))
                segment.first_us = records.first_stamp(fd, size, segment.nonce)
            finally:
                os.close(fd)
            found.append(segment)
        found.sort(key=lambda segment: segment.number)
        if found:
            self._next_number = found[-1].number + 1
        return found

    def quarantined_bytes(self) -> int:
        """Bytes that are set aside as damaged, for a person to look at."""
        return sum(entry.stat().st_size for entry in self._path.iterdir() if entry.suffix == _QUARANTINE_SUFFIX)

    def commit(self, jobs: list[Job]) -> Committed:
        """Write and flush ``jobs``: one fdatasync per chain, however many jobs."""
        done = Committed()
        chains: dict[ChainKey, list[int]] = {}
        for index, job in enumerate(jobs):
            chains.setdefault(job.key, []).append(index)
        for key, members in chains.items():
            try:
                self._append(key, [jobs[index] for index in members], done)
            except OSError as error:
                done.failed |= dict.fromkeys(members, error)
        return done

    def seal(self, segment: Segment) -> None:
        """Write no more to ``segment``."""
        if self._open.get(segment.key) is segment:
            del self._open[segment.key]
        if segment.fd is not None:
            os.close(segment.fd)
            segment.fd = None

    def delete(self, segment: Segment) -> None:
        """Delete ``segment`` durably."""
        self.seal(segment)
        segment.path.unlink(missing_ok=True)
        os.fsync(self._fd)

    def set_aside(self, segment: Segment) -> None:
        """Rename ``segment`` so that no process reads it again."""
        self.seal(segment)
        with contextlib.suppress(OSError):
            segment.path.rename(segment.path.with_suffix(_QUARANTINE_SUFFIX))

    def quarantine(self, segment: Segment, spans: list[tuple[int, int]]) -> None:
        """Copy the bytes at ``spans`` of ``segment`` to a file beside it, for a person to look at."""
        source = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        aside = segment.path.with_suffix(_QUARANTINE_SUFFIX)
        target = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            for start, end in spans:
                while start < end:
                    piece = os.pread(source, min(1 << 20, end - start), start)
                    if not piece:
                        break
                    os.write(target, piece)
                    start += len(piece)
            os.fsync(target)
            os.fsync(self._fd)
        finally:
            os.close(source)
            os.close(target)

    def close(self) -> None:
        """Close every file; the lock goes with it."""
        for segment in list(getattr(self, "_open", {}).values()):
            self.seal(segment)
        os.close(self._fd)
        os.close(self._lock)

    def _append(self, key: ChainKey, jobs: list[Job], done: Committed) -> None:
        segment = self._open.get(key)
        if segment is not None and segment.size >= SEGMENT_BYTES:
            self.seal(segment)
            segment = None
        if segment is None:
            segment = self._begin(key)
            done.begun.append(segment)
        assert segment.fd is not None
        parts = [records.encode(segment.nonce, 0, job.org_id.bytes, entry) for job in jobs for entry in job.entries]
        try:
            _write_all(segment.fd, parts)
            failpoint("disk_buffer_after_write_before_fsync")
            os.fdatasync(segment.fd)
        except OSError:
            self._abandon(segment)
            raise
        if segment.first_us is None:
            segment.first_us = jobs[0].accepted_at_us
        segment.size += sum(map(len, parts))
        for job in jobs:
            segment.by_org[job.org_id.bytes] += job.size

    def _begin(self, key: ChainKey) -> Segment:
        shard, owner = key
        nonce = secrets.randbits(32)
        number = self._next_number
        self._next_number += 1
        name = "-".join(filter(None, (f"s{shard:02d}", owner, f"{number:012d}", f"{nonce:08x}"))) + ".spool"
        path = self._path / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(self._fd)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        segment = Segment(path, key, number, nonce, fd=fd)
        self._open[key] = segment
        return segment

    def _abandon(self, segment: Segment) -> None:
        """Cut ``segment`` at its last good flush, and let the next record begin another one.

        After a failed flush it is unknown which bytes are on disk, and a second flush would report success.
        """
        assert segment.fd is not None
        with contextlib.suppress(OSError):  # bytes behind ``size`` were not acknowledged, and are not read
            os.ftruncate(segment.fd, segment.size)
        self.seal(segment)


def _write_all(fd: int, parts: list[bytes]) -> None:
    for start in range(0, len(parts), _WRITE_PARTS):
        some = parts[start : start + _WRITE_PARTS]
        written = os.writev(fd, some)
        rest = sum(map(len, some)) - written
        if rest:
            # A short write: the disk is filling up, or a signal came. Writing the rest finds out.
            tail = memoryview(b"".join(some))[written:]
            while tail:
                tail = tail[os.write(fd, tail) :]
