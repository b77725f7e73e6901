"""An org's shard is what the specification spells, for good: envelopes on their way depend on it."""

from hashlib import blake2b
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tracebility.ids import OrgId
from tracebility.tenant.shard_router import DEAD_LETTER_STREAM, SHARDS, shard_of, stream_of


@given(st.uuids())
def test_the_shard_is_blake2b_of_the_org_modulo_16(org: UUID) -> None:
    assert shard_of(OrgId(org)) == int.from_bytes(blake2b(org.bytes, digest_size=8).digest(), "big") % 16


def test_streams_are_named_as_the_specification_has_them() -> None:
    assert [stream_of(shard) for shard in (0, 15)] == ["tracebility:ingest:v1:0", "tracebility:ingest:v1:15"]
    assert DEAD_LETTER_STREAM == "tracebility:ingest:v1:dlq"
    assert SHARDS == 16
    assert shard_of(OrgId(UUID("00000000-0000-4000-8000-000000000001"))) == 11
