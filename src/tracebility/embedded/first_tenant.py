"""The tenant whose keys the ready file holds: made at the first start, or adopted from a store in use."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tracebility.embedded.installation import write_private
from tracebility.errors import ConfigurationError
from tracebility.orgs.bootstrap import ensure_first_tenant
from tracebility.stores.postgres import Postgres, Transaction
from tracebility.tenant import keys
from tracebility.tenant.context import Scope


async def ensure_tenant(control: Postgres, tenant_file: Path) -> None:
    """See to it that ``tenant_file`` holds keys that this control plane knows; written before they are committed.

    Raises:
        ConfigurationError: when the control plane has an org, but no project to send to.
    """

    def keep(tenant: Mapping[str, Any]) -> None:
        write_private(tenant_file, {name: value and str(value) for name, value in tenant.items()})

    if await ensure_first_tenant(control, lambda tenant: keep(asdict(tenant))) is not None:
        return
    if not await _knows(control, _kept_key(tenant_file)):
        await _adopt(control, keep)


async def _knows(control: Postgres, key: keys.ParsedKey | None) -> bool:
    """False also when the directory was used with another control plane before."""
    return key is not None and await control.fetchrow("key_by_public_id", key.public_id) is not None


def _kept_key(tenant_file: Path) -> keys.ParsedKey | None:
    try:
        return keys.parse(str(json.loads(tenant_file.read_text())["api_key"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None


async def _adopt(control: Postgres, keep: Callable[[Mapping[str, Any]], None]) -> None:
    api_key, operator_key = keys.generate(), keys.generate()
    async with control.transaction() as transaction:
        found = await transaction.fetchrow("oldest_project")
        if found is None:
            raise ConfigurationError(
                "The database of TRACEBILITY_PG_DSN has an organisation, but no project. Name an empty database."
            )
        tenant = {name: found[name] for name in ("org_id", "workspace_id", "project_id")}
        email = found["admin_email"]
        scopes = [Scope.INGEST_WRITE, Scope.READ, Scope.ADMIN]
        await _insert(transaction, api_key, tuple(tenant.values()), scopes)
        await _insert(transaction, operator_key, (None, None, None), [Scope.OPERATOR])
        # The password of somebody else's installation is theirs.
        secrets = {"api_key": api_key.key, "operator_key": operator_key.key, "admin_password": None}
        keep(tenant | secrets | {"admin_email": email})


async def _insert(transaction: Transaction, key: keys.NewKey, tenant: tuple[Any, ...], scopes: list[Scope]) -> None:
    await transaction.execute("insert_key", key.public_id, *tenant, "tracebility up", key.secret_hash, scopes)
