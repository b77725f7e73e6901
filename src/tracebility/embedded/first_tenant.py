"""The tenant of the ready file: created at the first start, or adopted from a control plane that is in use."""

import json
from dataclasses import asdict
from pathlib import Path

from tracebility.embedded.installation import write_private
from tracebility.orgs.bootstrap import FirstTenant, adopt_oldest_tenant, ensure_first_tenant
from tracebility.stores.postgres import Postgres
from tracebility.tenant import keys


async def ensure_tenant(control: Postgres, tenant_file: Path) -> None:
    """Ensure that ``tenant_file`` holds valid keys of this control plane. New keys are written before the commit.

    Raises:
        ConfigurationError: when the control plane has an org, but no project to send to.
    """

    def keep(tenant: FirstTenant) -> None:
        write_private(tenant_file, {name: value and str(value) for name, value in asdict(tenant).items()})

    if await ensure_first_tenant(control, keep) is None and not await _knows(control, _kept_key(tenant_file)):
        await adopt_oldest_tenant(control, keep)


async def _knows(control: Postgres, key: keys.ParsedKey | None) -> bool:
    """Whether the control plane has this tenant. False if the directory was used with another control plane before."""
    return key is not None and await control.fetchrow("key_by_public_id", key.public_id) is not None


def _kept_key(tenant_file: Path) -> keys.ParsedKey | None:
    try:
        return keys.parse(str(json.loads(tenant_file.read_text())["api_key"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
