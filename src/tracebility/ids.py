"""Identifiers as types of their own, so that swapping two of them does not compile."""

import os
import time
from typing import NewType
from uuid import UUID

OrgId = NewType("OrgId", UUID)
WorkspaceId = NewType("WorkspaceId", UUID)
ProjectId = NewType("ProjectId", UUID)
EnvelopeId = NewType("EnvelopeId", UUID)
PublicKeyId = NewType("PublicKeyId", str)

# The tenant of rows whose org is unknown. Never the nil UUID: that is what an unset tenant reads as in a row policy.
SENTINEL = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
SENTINEL_ORG = OrgId(SENTINEL)
SENTINEL_WORKSPACE = WorkspaceId(SENTINEL)


def uuid7() -> UUID:
    """A time-ordered UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80
    value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)
