"""The disk buffer: on disk before the answer, bounded for all and for each, empty when the queue has taken all."""

import asyncio
import errno
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tracebility.errors import ConfigurationError, Overloaded, StoreUnavailable
from tracebility.ids import OrgId, uuid7
from tracebility.ingest.disk_buffer import buffer, replay, segments
from tracebility.ingest.disk_buffer.buffer import DiskBuffer
from tracebility.ingest.disk_buffer.replay import Replayer
from tracebility.ingest.enqueue import CircuitBreaker, Entry
from tracebility.ingest.metrics import IngestMetrics
from tracebility.telemetry import Metrics
from tracebility.tenant.quota import SLOT_US
from tracebility.tenant.shard_router import shard_of, stream_of
from tracebility.wire.envelope import Envelope, Header

ORGS = [OrgId(UUID(int=number)) for number in range(1, 9)]
CAP = 64 << 20


class Queue:
    """What the replay needs of a queue, which takes or refuses as told."""

    def __init__(self) -> None:
        self.taken: list[Entry] = []
        self.late: list[int] = []
        self.takes = True
        self.changed = asyncio.Event()

    def depth(self, stream: str, org_id: Any) -> int:
        return 0

    async def withdraw(self, books: Sequence[Any]) -> None:
        return

    async def append_groups(self, groups: Sequence[Sequence[Entry]], books: Sequence[Any] = ()) -> list[Any]:
        self.changed.set()
        if not self.takes:
            raise StoreUnavailable("redis", "away")
        self.taken += [entry for group in groups for entry in group]
        return [[b"1-1"]] * len(groups)

    async def ping(self) -> None:
        await self.append_groups([])

    async def record_late(self, slot: int, until_ms: int) -> None:
        assert until_ms > time.time() * 1000
        self.late.append(slot)


def entry(text: str, size: int = 10) -> dict[str, bytes]:
    return {"h": text.encode(), "b": b"x" * size}


def stamped(org: OrgId, slot: int) -> dict[str, bytes]:
    """An entry as it is, accepted in this slot."""
    header = Header(
        id=uuid7(), org_id=org, workspace_id=org, project_id=org, key_id="k", accepted_at_us=slot * SLOT_US + 1,
        period="2026-11", source="native", content_type="json", content_encoding="identity", items=1, bytes=1,
    )  # fmt: skip
    return Envelope(header, b"x").fields()


@asynccontextmanager
async def opened(path: Path, cap: int = CAP) -> AsyncIterator[DiskBuffer]:
    disk_buffer = await DiskBuffer.open(path, cap, IngestMetrics(Metrics()))
    try:
        yield disk_buffer
    finally:
        await disk_buffer.close()


@asynccontextmanager
async def replaying(
    disk_buffer: DiskBuffer, queue: Queue, breaker: CircuitBreaker | None = None
) -> AsyncIterator[None]:
    metrics = disk_buffer._metrics
    task = asyncio.create_task(Replayer(disk_buffer, queue, breaker or CircuitBreaker(metrics), metrics).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  (the product tells nobody)
            await asyncio.sleep(0.01)


async def emptied(disk_buffer: DiskBuffer) -> None:
    await until(lambda: not disk_buffer.chains)


def files(folder: Path, pattern: str = "*.spool") -> list[Path]:
    return sorted(folder.glob(pattern))


async def fill(disk_buffer: DiskBuffer, org: OrgId, size: int, *, times: int = 1) -> None:
    for _ in range(times):
        await write(disk_buffer, org, "flood", size=size)


async def write(disk_buffer: DiskBuffer, org: OrgId, *texts: str, size: int = 10) -> None:
    await disk_buffer.write(shard_of(org), org, [entry(text, size) for text in texts])


def value(disk_buffer: DiskBuffer, name: str) -> float:
    return disk_buffer._metrics.all.registry.get_sample_value(name) or 0.0


async def test_what_was_written_is_replayed_in_order_to_its_shard(tmp_path: Path) -> None:
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        await asyncio.gather(*(write(disk_buffer, org, f"{org} {number}") for number in range(50) for org in ORGS))
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
        assert value(disk_buffer, "tracebility_spool_bytes") == 0
    for org in ORGS:
        mine = [(stream, fields["h"].decode()) for stream, fields in queue.taken if str(org) in fields["h"].decode()]
        assert mine == [(stream_of(shard_of(org)), f"{org} {number}") for number in range(50)]
    assert [path.name for path in files(tmp_path, "*")] == ["lock"]


async def test_file_names_carry_the_shard(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk_buffer:
        for org in ORGS:
            await write(disk_buffer, org, "x")
        assert {int(path.name[1:3]) for path in files(tmp_path)} == {shard_of(org) for org in ORGS}
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in files(tmp_path, "*"))


async def test_leftovers_of_a_dead_process_are_replayed_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "first")
        held = disk_buffer._held
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        assert disk_buffer._held == held
        assert disk_buffer._by_org == {ORGS[0].bytes: held}
        await write(disk_buffer, ORGS[0], "second")
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert [fields["h"] for _, fields in queue.taken] == [b"first", b"second"]


async def test_what_several_dead_processes_left_is_replayed_in_the_order_of_its_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    texts = [f"{number}" for number in range(12)]
    for start in range(0, 12, 3):
        async with opened(tmp_path) as disk_buffer:
            for text in texts[start : start + 3]:
                await write(disk_buffer, ORGS[0], text, size=100)
    assert len(files(tmp_path)) == 12
    queue = Queue()
    async with opened(tmp_path) as disk_buffer, replaying(disk_buffer, queue):
        await emptied(disk_buffer)
    assert [fields["h"].decode() for _, fields in queue.taken] == texts


async def test_a_file_of_many_batches_is_deleted_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "BATCH_BYTES", 100)
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], *(f"{number}" for number in range(20)))
        assert len(files(tmp_path)) == 1
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert [fields["h"].decode() for _, fields in queue.taken] == [f"{number}" for number in range(20)]


async def test_names_are_flushed_too_before_the_answer_and_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was flushed is lost all the same when its name is not on disk."""
    real = os.fsync
    seen: list[set[str]] = []

    def flushed(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path):
            seen.append({path.name for path in files(tmp_path)})
        real(fd)

    monkeypatch.setattr(segments.os, "fsync", flushed)
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "x")
        [name] = [path.name for path in files(tmp_path)]
        assert seen == [{name}]
        async with replaying(disk_buffer, Queue()):
            await emptied(disk_buffer)
        assert seen == [{name}, set()]


async def test_the_oldest_stamp_is_told_while_it_is_here_also_by_the_next_process(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk_buffer:
        assert disk_buffer.oldest_us is None
        for org, slot in zip(ORGS, (30, 20, 40), strict=False):
            await disk_buffer.write(shard_of(org), org, [stamped(org, slot)])
            await disk_buffer.write(shard_of(org), org, [stamped(org, slot + 1)])
        assert disk_buffer.oldest_us == 20 * SLOT_US + 1
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        assert disk_buffer.oldest_us == 20 * SLOT_US + 1
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
        assert disk_buffer.oldest_us is None


async def test_a_damaged_record_hides_no_stamp_but_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk_buffer:
        for slot in (20, 30):
            await disk_buffer.write(3, ORGS[0], [stamped(ORGS[0], slot)])
    [path] = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(b"?" + data[1:])
    async with opened(tmp_path) as disk_buffer:
        assert disk_buffer.oldest_us == 30 * SLOT_US + 1


async def test_the_queue_is_told_how_late_something_comes_before_it_comes(tmp_path: Path) -> None:
    queue = Queue()
    noted_late = queue.record_late

    async def record_late(slot: int, until_ms: int) -> None:
        assert not queue.taken
        await noted_late(slot, until_ms)

    queue.record_late = record_late  # type: ignore[method-assign]
    async with opened(tmp_path) as disk_buffer:
        await disk_buffer.write(3, ORGS[0], [stamped(ORGS[0], 31), stamped(ORGS[0], 30)])
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert (queue.late, len(queue.taken)) == ([30], 2)


async def test_a_torn_tail_and_a_damaged_record_block_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk_buffer:
        for text in ("one", "two", "six"):
            await write(disk_buffer, ORGS[0], text)
    [path] = files(tmp_path)
    data = path.read_bytes()
    place = data.index(b"two")
    path.write_bytes(data[:place] + b"?" + data[place + 1 :] + data[:20])
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
        assert value(disk_buffer, "tracebility_spool_damaged_bytes_total") == len(data) / 3
        assert value(disk_buffer, "tracebility_spool_torn_bytes_total") == 20
        assert disk_buffer._held == len(data) / 3
    assert [fields["h"] for _, fields in queue.taken] == [b"one", b"six"]
    [aside] = files(tmp_path, "*.damaged")
    assert b"?wo" in aside.read_bytes()


async def test_nothing_is_deleted_before_the_queue_has_it(tmp_path: Path) -> None:
    queue = Queue()
    queue.takes = False
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "kept")
        breaker = CircuitBreaker(disk_buffer._metrics)
        async with replaying(disk_buffer, queue, breaker):
            await queue.changed.wait()
            assert files(tmp_path)
            await write(disk_buffer, ORGS[0], "while it is away")
            queue.takes = True
            await emptied(disk_buffer)
            assert not breaker.is_open
    assert [fields["h"] for _, fields in queue.taken] == [b"kept", b"while it is away"]


async def test_a_gate_that_is_shut_opens_when_an_idle_queue_is_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk_buffer:
        breaker = CircuitBreaker(disk_buffer._metrics)
        breaker.trip("away")
        async with replaying(disk_buffer, Queue(), breaker):
            await until(lambda: not breaker.is_open)


async def test_one_org_cannot_fill_the_buffer(tmp_path: Path) -> None:
    async with opened(tmp_path, cap=1 << 20) as disk_buffer:
        with pytest.raises(Overloaded, match="share"):
            await fill(disk_buffer, ORGS[0], 100_000, times=10)
        assert disk_buffer._by_org[ORGS[0].bytes] <= (1 << 20) * buffer.ORG_SHARE
        for org in ORGS[1:4]:
            await fill(disk_buffer, org, 200_000)
        await fill(disk_buffer, ORGS[4], 200_000)
        with pytest.raises(Overloaded, match="full"):
            await fill(disk_buffer, ORGS[5], 200_000)
        assert not disk_buffer.accepts
        assert sum(path.stat().st_size for path in files(tmp_path, "*")) <= 1 << 20
        async with replaying(disk_buffer, Queue()):
            await emptied(disk_buffer)
        assert disk_buffer.accepts
        await write(disk_buffer, ORGS[0], "again", size=100_000)


async def test_an_org_that_holds_much_delays_the_others_by_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(replay, "BATCH_BYTES", 1000)
    flooding = ORGS[0]
    victim = next(
        org
        for org in map(OrgId, map(UUID, (f"{n:032x}" for n in range(100, 999))))
        if shard_of(org) == shard_of(flooding)
    )
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        for number in range(100):
            await write(disk_buffer, flooding, f"flood {number}", size=500)
        await write(disk_buffer, victim, "victim")
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    order = [fields["h"].decode() for _, fields in queue.taken]
    assert order.index("victim") < 10
    assert [text for text in order if text != "victim"] == [f"flood {number}" for number in range(100)]


async def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(ConfigurationError, match=str(os.getpid())):
            await DiskBuffer.open(tmp_path, CAP, IngestMetrics(Metrics()))
    async with opened(tmp_path):
        pass


async def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="TRACEBILITY_SPOOL_DIR"):
        await DiskBuffer.open(tmp_path / "file" / "folder", CAP, IngestMetrics(Metrics()))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fdatasync", "writev"])
async def test_a_failing_disk_refuses_and_is_never_asked_to_flush_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, call: str
) -> None:
    monkeypatch.setattr(buffer, "REFUSE_S", 0.0)
    real = getattr(os, call)
    failed: list[int] = []

    def failing(fd: int, *arguments: Any) -> Any:
        if not failed:
            failed.append(fd)
            raise OSError(error, os.strerror(error))
        return real(fd, *arguments)

    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "before")
        [first] = files(tmp_path)
        size = first.stat().st_size
        monkeypatch.setattr(segments.os, call, failing)
        with pytest.raises(Overloaded):
            await write(disk_buffer, ORGS[0], "refused")
        assert first.stat().st_size == size
        await write(disk_buffer, ORGS[0], "after")
        assert len(files(tmp_path)) == 2
        assert value(disk_buffer, "tracebility_spool_write_errors_total") == 1
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
        assert disk_buffer._held == 0
    assert [fields["h"] for _, fields in queue.taken] == [b"before", b"after"]


async def test_a_full_disk_refuses_before_anything_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if str(path).endswith(".spool") and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "full")
        return real(path, flags, *arguments, **named)

    async with opened(tmp_path) as disk_buffer:
        monkeypatch.setattr(segments.os, "open", full)
        for _ in range(3):
            with pytest.raises(Overloaded) as refusal:
                await write(disk_buffer, ORGS[0], "refused")
            assert refusal.value.retry_after_s
        assert not disk_buffer.accepts
        assert disk_buffer._held == 0


async def test_a_flush_covers_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(segments.os, "fdatasync", lambda fd: (flushes.append(fd), real(fd)))
    async with opened(tmp_path) as disk_buffer:
        await asyncio.gather(*(write(disk_buffer, ORGS[0], f"{number}") for number in range(200)))
    assert len(flushes) < 20


async def test_segments_end_and_are_deleted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        for number in range(50):
            await write(disk_buffer, ORGS[0], f"{number}", size=300)
        assert len(files(tmp_path)) > 10
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert [fields["h"].decode() for _, fields in queue.taken] == [f"{number}" for number in range(50)]


async def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "lost")
        await write(disk_buffer, ORGS[1], "kept")
        real = os.pread
        [lost] = files(tmp_path, f"s{shard_of(ORGS[0]):02d}*")

        def failing(fd: int, count: int, offset: int) -> bytes:
            if os.readlink(f"/proc/self/fd/{fd}") == str(lost):
                raise OSError(errno.EIO, "bad sector")
            return real(fd, count, offset)

        monkeypatch.setattr(segments.os, "pread", failing)
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert [fields["h"] for _, fields in queue.taken] == [b"kept"]
    assert lost.with_suffix(".damaged").exists()


async def test_a_file_that_cannot_be_opened_now_waits_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of descriptors, say: nothing is wrong with what is in it."""
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "waits")
        await write(disk_buffer, ORGS[1], "goes on")
    queue, real, tries = Queue(), os.open, []
    [stuck] = files(tmp_path, f"s{shard_of(ORGS[0]):02d}*")
    monkeypatch.setattr(replay, "QUEUE_RETRY_S", 0.01)

    def failing(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if str(path) == str(stuck) and len(tries) < 3:
            tries.append(path)
            raise OSError(errno.EMFILE, "too many open files")
        return real(path, flags, *arguments, **named)

    async with opened(tmp_path) as disk_buffer:
        monkeypatch.setattr(replay.os, "open", failing)
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert [fields["h"] for _, fields in queue.taken] == [b"goes on", b"waits"]
    assert files(tmp_path, "*.damaged") == []


async def test_what_cannot_be_set_aside_is_not_sent_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as disk_buffer:
        await write(disk_buffer, ORGS[0], "one")
        await write(disk_buffer, ORGS[0], "two")
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"two", b"?wo"))
    queue, tries = Queue(), []
    monkeypatch.setattr(replay, "QUEUE_RETRY_S", 0.01)
    async with opened(tmp_path) as disk_buffer:
        real = disk_buffer.quarantine

        async def full(*arguments: Any) -> None:
            tries.append(arguments)
            if len(tries) < 3:
                raise OSError(errno.ENOSPC, "full")
            await real(*arguments)

        monkeypatch.setattr(disk_buffer, "quarantine", full)
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
    assert [fields["h"] for _, fields in queue.taken] == [b"one"]
    assert len(tries) == 3


async def test_a_file_that_cannot_be_deleted_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    async with opened(tmp_path) as disk_buffer:
        real = Path.unlink

        def failing(path: Path, missing_ok: bool = False) -> None:
            if path.name.startswith(f"s{shard_of(ORGS[0]):02d}"):
                raise OSError(errno.EIO, "bad sector")
            real(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", failing)
        await write(disk_buffer, ORGS[0], "stuck")
        await write(disk_buffer, ORGS[1], "next")
        async with replaying(disk_buffer, queue):
            await emptied(disk_buffer)
            await write(disk_buffer, ORGS[2], "later")
            await emptied(disk_buffer)
    assert [fields["h"] for _, fields in queue.taken] == [b"stuck", b"next", b"later"]
    assert len(files(tmp_path)) == 1


# --- a process that dies at a failpoint ---

DYING = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from tracebility.ingest.metrics import IngestMetrics
from tracebility.ingest.disk_buffer.buffer import DiskBuffer
from tracebility.telemetry import Metrics

async def main():
    disk_buffer = await DiskBuffer.open(Path(sys.argv[1]), 1 << 26, IngestMetrics(Metrics()))
    for number in range(5):
        await disk_buffer.write(3, UUID(int=1), [{"h": b"%d" % number, "b": b"x" * 1000}])
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["disk_buffer_after_write_before_fsync", "disk_buffer_after_fsync_before_answer"])
async def test_what_was_acknowledged_before_a_kill_is_replayed_once(tmp_path: Path, point: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DYING,
        str(tmp_path),
        env={**os.environ, "TRACEBILITY_FAILPOINT": f"{point}:3"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == -9
    acknowledged = output.split()
    queue = Queue()
    async with opened(tmp_path) as disk_buffer, replaying(disk_buffer, queue):
        await emptied(disk_buffer)
    stored = [fields["h"] for _, fields in queue.taken]
    assert stored[: len(acknowledged)] == acknowledged == [b"0", b"1"]
    assert len(stored) <= 3
