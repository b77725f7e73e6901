"""What tests do to the streams of the queue that the product itself never does: bare appends, deletions, counts."""

from collections.abc import Mapping, Sequence

from tracebility.errors import StoreUnavailable
from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import Entry, Removal


async def append(queue: Queue, entries: Sequence[tuple[str, Mapping[str, bytes]]]) -> list[bytes | StoreUnavailable]:
    """Append each entry in one round trip; the id or the refusal of each, in order."""
    results = await queue.append_groups([[entry] for entry in entries])
    return [result if isinstance(result, StoreUnavailable) else result[0] for result in results]


async def acknowledge(queue: Queue, stream: str, ids: Sequence[bytes]) -> None:
    """Acknowledge and delete entries that no ledger knows of."""
    await queue.remove([Removal(stream, ids)])


async def read_pending(queue: Queue, stream: str, consumer: str, after: bytes, count: int) -> list[Entry]:
    """Entries after ``after`` that ``consumer`` was given and has not acknowledged."""
    found = await queue._read_group([stream], consumer, count, after)
    return found[0][1] if found else []


async def delete(queue: Queue, stream: str, ids: Sequence[bytes]) -> int:
    """Delete entries behind everybody's back; how many there were."""
    [deleted] = await queue._pipeline([("XDEL", stream, *ids)]) if ids else [0]
    return int(deleted)


async def pending(queue: Queue, stream: str) -> int:
    """Entries of ``stream`` that were delivered and not acknowledged."""
    return (await queue.depths([stream]))[stream].pending
