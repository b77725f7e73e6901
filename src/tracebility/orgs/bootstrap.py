"""The first tenant of an installation, made as every other, so that a trace can be sent right after the first start."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from argon2 import PasswordHasher

from tracebility.audit.events import Actor
from tracebility.errors import ConfigurationError
from tracebility.ids import OrgId, ProjectId, WorkspaceId, uuid7
from tracebility.orgs import keys, orgs
from tracebility.orgs.projects import ProjectPlace
from tracebility.stores.postgres import Postgres
from tracebility.tenant.context import TENANT_SCOPES

PLAN = "internal"  # without limits: for whoever runs the installation
ADMIN_EMAIL = "admin@localhost"
ACTOR = Actor("system", "bootstrap")
PASSWORD_BYTES = 15  # 120 random bits, 20 characters

_LOCK = int.from_bytes(b"tracefst", "big")


@dataclass(frozen=True, slots=True)
class FirstTenant:
    """A tenant to start with, and its secrets, which are kept nowhere else. No password where the admin has one."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    admin_email: str | None
    api_key: str = field(repr=False)
    operator_key: str = field(repr=False)
    admin_password: str | None = field(repr=False)


async def ensure_first_tenant(
    postgres: Postgres, keep: Callable[[FirstTenant], None] = lambda tenant: None
) -> FirstTenant | None:
    """Create org, workspace, project, admin and keys if there is no org yet, else return None.

    ``keep`` stores the secrets. It is called just before the commit, so that no crash between the two leaves an
    installation whose keys nobody knows: kept without a commit, they are replaced at the next start.
    """
    now = datetime.now(UTC)
    async with postgres.transaction() as transaction:
        await transaction.execute("lock_bootstrap", _LOCK)
        if await transaction.fetchval("any_org"):
            return None
        made = await orgs.create_org(transaction, ACTOR, orgs.NewOrg(orgs.FIRST_NAME, PLAN), now)
        operator = await keys.create_operator_key(transaction, ACTOR, keys.NewOperatorKey("operator"), now)
        user_id, password = uuid7(), secrets.token_urlsafe(PASSWORD_BYTES)
        await transaction.execute("insert_user", user_id, ADMIN_EMAIL, "Administrator", PasswordHasher().hash(password))
        await transaction.execute("insert_org_member", made.org_id, user_id, "owner")
        tenant = FirstTenant(
            OrgId(made.org_id), WorkspaceId(made.workspace_id), ProjectId(made.project_id), ADMIN_EMAIL,
            made.api_key, operator.key, password,
        )  # fmt: skip
        keep(tenant)
    return tenant


async def adopt_oldest_tenant(postgres: Postgres, keep: Callable[[FirstTenant], None]) -> None:
    """New keys for the oldest project of a control plane that was in use before; ``keep`` as in `ensure_first_tenant`.

    Raises:
        ConfigurationError: when there is no project.
    """
    now = datetime.now(UTC)
    async with postgres.transaction() as transaction:
        found = await transaction.fetchrow("oldest_project")
        if found is None:
            raise ConfigurationError(
                "The database of TRACEBILITY_PG_DSN has an organisation, but no project. Name an empty database."
            )
        place = ProjectPlace(OrgId(found["org_id"]), WorkspaceId(found["workspace_id"]), ProjectId(found["project_id"]))
        new = keys.NewKey("tracebility up", list(TENANT_SCOPES))
        made = await keys.create_key(transaction, ACTOR, place, new, now)
        operator = await keys.create_operator_key(transaction, ACTOR, keys.NewOperatorKey("tracebility up"), now)
        # The password of an admin who exists is not ours to know.
        keep(FirstTenant(*place, found["admin_email"], made.key, operator.key, None))
