"""An event of the trail with its place in its org's chain, and how its hash is made: as 0026_audit_chain.sql does it.

The schema writes hashes, this recomputes them, so that a change of either shows.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from tracebility.ids import SENTINEL

# Before the first event of a chain.
NOTHING_BEFORE = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One event as a store has it. ``hash`` is hexadecimal; ``details`` is the exact text that was hashed."""

    event_id: UUID
    event_time_us: int
    event_type: str
    org_id: UUID | None
    actor_type: str
    actor_id: str
    target_type: str
    target_id: str
    details: str
    seq: int
    hash: str

    @property
    def chain(self) -> UUID:
        """Whose chain it is in; the sentinel tenant's for what concerns no org."""
        return self.org_id or SENTINEL

    def hash_after(self, before: str) -> str:
        """The hash it has to have behind an event whose hash is ``before``."""
        fields = (
            str(self.seq),
            str(self.event_id),
            str(self.event_time_us),
            self.event_type,
            "" if self.org_id is None else str(self.org_id),
            self.actor_type,
            self.actor_id,
            self.target_type,
            self.target_id,
            self.details,
        )
        hashed = sha256(bytes.fromhex(before))
        for field in fields:
            text = field.encode()
            hashed.update(b"%d:" % len(text))
            hashed.update(text)
        return hashed.hexdigest()

    def follows(self, *hashes: str | None) -> bool:
        """Whether its hash is right behind any of ``hashes``."""
        return any(before is not None and self.hash_after(before) == self.hash for before in hashes)

    def document(self) -> dict[str, Any]:
        """As JSON, for what is kept of a row that was found where it should not be."""
        return {
            "event_id": str(self.event_id),
            "event_time_us": self.event_time_us,
            "event_type": self.event_type,
            "org_id": None if self.org_id is None else str(self.org_id),
            "actor_type": self.actor_type,
            "actor_id": self.actor_id,
            "target_type": self.target_type,
            "target_id": self.target_id,
            "details": self.details,
            "seq": self.seq,
            "hash": self.hash,
        }
