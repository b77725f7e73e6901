"""An audit event with its position in its org's hash chain, and the hash function.

The schema (0026_audit_chain.sql) computes the hash on insert. This module computes the same hash independently, so that
verification detects a change to the rows or to the schema.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from tracebility.ids import SENTINEL

# The previous hash of a chain's first event.
GENESIS_HASH = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One event as stored. ``hash`` is hexadecimal; ``details`` is the exact text that was hashed."""

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
        """The org whose chain holds this event; the sentinel tenant for events without an org."""
        return self.org_id or SENTINEL

    def hash_after(self, previous: str) -> str:
        """Compute this event's hash, given the hexadecimal hash of the event before it."""
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
        hashed = sha256(bytes.fromhex(previous))
        for field in fields:
            text = field.encode()
            hashed.update(b"%d:" % len(text))
            hashed.update(text)
        return hashed.hexdigest()

    def follows(self, *hashes: str | None) -> bool:
        """Whether this event's hash is correct after any of ``hashes``."""
        return any(previous is not None and self.hash_after(previous) == self.hash for previous in hashes)

    def document(self) -> dict[str, Any]:
        """The event as a JSON object, in which a gap row keeps the wrong row that was found."""
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
