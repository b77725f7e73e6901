"""Identifier types. Each is its own type, so that the type checker finds swapped ids."""

import os
import re
import time
from typing import NewType
from uuid import UUID

OrgId = NewType("OrgId", UUID)
WorkspaceId = NewType("WorkspaceId", UUID)
ProjectId = NewType("ProjectId", UUID)
EnvelopeId = NewType("EnvelopeId", UUID)
PublicKeyId = NewType("PublicKeyId", str)

# The tenant of rows whose org is unknown. Not the nil UUID, because row policies read an unset tenant as nil.
SENTINEL = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
SENTINEL_ORG = OrgId(SENTINEL)
SENTINEL_WORKSPACE = WorkspaceId(SENTINEL)

# As ingest accepts them: a UUID, or 16 or 32 hex digits.
_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16}|[0-9a-f]{32}", re.IGNORECASE)


def is_run_id(text: str) -> bool:
    """Whether a run can have this id."""
    return _RUN_ID.fullmatch(text) is not None


def uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80
    value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)
