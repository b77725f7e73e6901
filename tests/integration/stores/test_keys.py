"""What Redis keeps of a key is used where it can be read, and looked up anew where it cannot."""

from typing import Any

import msgspec
import pytest

from tracebility.stores import keys
from tracebility.stores.postgres import Postgres
from tracebility.stores.redis_control import RedisControl
from tracebility.tenant.redis_keys import shared_key

WHOLE = {
    "public_id": "...", "org_id": None, "workspace_id": None, "project_id": None, "plan": "", "scopes": [],
    "expires_at": None, "revoked_at": None, "secret_hash": b"",
}  # fmt: skip
packed = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "kept",
    [
        b"",
        b"\xc1",
        b"nonsense",
        packed(None),
        packed([1, 2]),
        packed({"public_id": "..."}),
        packed(WHOLE | {"scopes": ["everything"]}),
        packed(WHOLE | {"expires_at": msgspec.msgpack.Ext(-1, b"\xff" * 12)}),
        packed(WHOLE)[:-3],
        packed("public_id").replace(b"p", b"\xff"),
        b"\x91" * 100_000,
    ],
    ids=lambda kept: kept[:24].hex() or "empty",
)
async def test_a_record_that_cannot_be_read_is_a_miss(
    control: Postgres, hot_store: RedisControl, two_orgs: Any, api: Any, kept: bytes
) -> None:
    tenant, _ = two_orgs
    at = shared_key("api_key", tenant.context.key_id)
    kept = kept.replace(b"\xa3...", bytes([0xA0 | len(tenant.context.key_id)]) + tenant.context.key_id.encode())
    await hot_store.command("SET", at, kept)
    cached = keys.CachedKeys(keys.PostgresKeys(control), hot_store, lambda _: False)
    found = await cached.key_by_public_id(tenant.context.key_id)
    assert found is not None
    assert found.org_id == tenant.org_id
    assert await hot_store.command("GET", at) == keys._encode(found)
    await hot_store.command("SET", at, kept)
    assert (await api.get("/v1/projects", headers=tenant.headers())).status_code == 200
