"""Lists, replays and drops dead letters: envelopes that could not be stored."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tracebility.stores.queue import Queue
from tracebility.stores.queue.entries import Entry
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM
from tracebility.wire.envelope import Header, MalformedEnvelope, from_fields

PAGE = 20  # envelopes are up to 1 MiB
_ID = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter with its reason. ``header`` is None when the envelope is unreadable."""

    entry: Entry
    reason: str
    stream: str
    entry_id: str
    deliveries: int
    at_us: int
    header: Header | None

    @property
    def id(self) -> str:
        """The id of the dead letter."""
        return self.entry.id.decode()

    def document(self) -> dict[str, Any]:
        """The dead letter as a JSON object, without the body."""
        header = self.header
        tenant = {} if header is None else {
            "envelope_id": str(header.id),
            "org_id": str(header.org_id),
            "project_id": str(header.project_id),
            "source": header.source,
            "items": header.items,
            "accepted_at_us": header.accepted_at_us,
        }  # fmt: skip
        return {
            "id": self.id,
            "reason": self.reason,
            "stream": self.stream,
            "entry_id": self.entry_id,
            "deliveries": self.deliveries,
            "at_us": self.at_us,
            "bytes": len(self.entry.fields.get(b"b", b"")),
            **tenant,
        }


async def all_dead_letters(queue: Queue) -> AsyncIterator[DeadLetter]:
    """Yield all dead letters, oldest first."""
    start = b"-"
    while True:
        page = await queue.range(DEAD_LETTER_STREAM, start=start, count=PAGE)
        for entry in page:
            yield _letter(entry)
        if len(page) < PAGE:
            return
        start = b"(" + page[-1].id


async def find(queue: Queue, letter_id: str) -> DeadLetter | None:
    """Return the dead letter with this id, or None."""
    if not _ID.fullmatch(letter_id):
        return None
    found = await queue.range(DEAD_LETTER_STREAM, start=letter_id.encode(), end=letter_id.encode(), count=1)
    return _letter(found[0]) if found else None


async def replay(queue: Queue, letter: DeadLetter) -> str:
    """Append the envelope to its stream again, delete the dead letter, and return the new entry id."""
    return (await queue.replay(letter.entry)).decode()


async def drop(queue: Queue, letter: DeadLetter) -> None:
    """Delete the dead letter for good."""
    await queue.remove_dead_letters([letter.entry])


def _letter(entry: Entry) -> DeadLetter:
    try:
        header = from_fields(entry.fields).header
    except MalformedEnvelope:
        header = None
    said = {name: entry.fields.get(name, b"").decode(errors="replace") for name in (b"reason", b"stream", b"entry_id")}
    numbers = {name: entry.fields.get(name, b"") for name in (b"deliveries", b"at")}
    deliveries, at_us = (int(value) if value.isdigit() else 0 for value in numbers.values())
    return DeadLetter(entry, said[b"reason"], said[b"stream"], said[b"entry_id"], deliveries, at_us, header)
