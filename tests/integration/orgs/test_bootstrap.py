"""The first tenant: made once, usable at once, its secrets kept before it is committed."""

import asyncio
from typing import Any

import pytest
from argon2 import PasswordHasher

from tracebility.orgs.bootstrap import FirstTenant, ensure_first_tenant
from tracebility.stores import postgres
from tracebility.stores.keys import PostgresKeys
from tracebility.stores.migrations import control_plane
from tracebility.stores.migrations.files import discover
from tracebility.tenant import keys
from tracebility.tenant.context import Scope
from tracebility.tenant.resolver import Resolver


@pytest.fixture
async def control(databases: Any) -> Any:
    async with control_plane.connected(databases.pg_dsn) as plane:
        for migration in discover("postgres"):
            await plane.prepare()
            await plane.apply(migration)
    control = await postgres.connect(databases.pg_dsn)
    yield control
    await control.close()


async def test_the_first_tenant_is_made_once_however_many_start_together(control: Any) -> None:
    made = [tenant for tenant in await asyncio.gather(*(ensure_first_tenant(control) for _ in range(4))) if tenant]
    assert len(made) == 1
    [tenant] = made
    context = await Resolver(PostgresKeys(control)).resolve(f"Bearer {tenant.api_key}", "")
    assert (context.org_id, context.workspace_id, context.project_id) == (
        tenant.org_id,
        tenant.workspace_id,
        tenant.project_id,
    )
    assert context.scopes == {Scope.INGEST_WRITE, Scope.READ, Scope.ADMIN}
    stored = await control.fetchval("SELECT password_hash FROM app_user WHERE email = $1", tenant.admin_email)
    assert PasswordHasher().verify(stored, tenant.admin_password)
    logged = await control.fetch(
        "SELECT event_type, details FROM audit_log WHERE org_id = $1 ORDER BY seq", tenant.org_id
    )
    assert [row["event_type"] for row in logged] == [
        "org.created",
        "workspace.created",
        "project.created",
        "api_key.created",
    ], "as of every other org"
    assert logged[-1]["details"]["project_id"] == str(tenant.project_id)


async def test_an_operator_key_is_of_no_org(control: Any) -> None:
    tenant = await ensure_first_tenant(control)
    assert tenant is not None
    parsed = keys.parse(tenant.operator_key)
    assert parsed is not None
    record = await PostgresKeys(control).key_by_public_id(parsed.public_id)
    assert record is not None
    assert (record.org_id, record.workspace_id, record.project_id) == (None, None, None)
    assert record.scopes == {Scope.OPERATOR}


async def test_secrets_that_cannot_be_kept_make_no_tenant(control: Any) -> None:
    def disk_full(tenant: FirstTenant) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await ensure_first_tenant(control, disk_full)
    kept: list[FirstTenant] = []
    assert await ensure_first_tenant(control, kept.append) == kept[0]


async def test_an_unknown_key_has_no_record(control: Any) -> None:
    assert await PostgresKeys(control).key_by_public_id(keys.generate().public_id) is None
