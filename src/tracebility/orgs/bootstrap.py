"""Creates the first tenant of an installation, so that traces can be sent right after the first start."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from argon2 import PasswordHasher

from tracebility.audit.events import Actor, AuditWriter, Event, EventType
from tracebility.ids import OrgId, ProjectId, WorkspaceId, uuid7
from tracebility.stores.postgres import Postgres, Transaction
from tracebility.tenant import keys
from tracebility.tenant.context import Scope

ORG_NAME = WORKSPACE_NAME = PROJECT_NAME = "default"
PLAN = "internal"  # the operator's own org has no limits
ADMIN_EMAIL = "admin@localhost"
ACTOR = Actor("system", "bootstrap")
PASSWORD_BYTES = 15  # 120 random bits, 20 characters

_LOCK = int.from_bytes(b"tracefst", "big")


@dataclass(frozen=True, slots=True)
class FirstTenant:
    """The first tenant, with its secrets, which are stored nowhere else."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    admin_email: str
    api_key: str = field(repr=False)
    operator_key: str = field(repr=False)
    admin_password: str = field(repr=False)


async def ensure_first_tenant(
    postgres: Postgres, keep: Callable[[FirstTenant], None] = lambda tenant: None
) -> FirstTenant | None:
    """Create org, workspace, project, admin and keys if there is no org yet, else return None.

    ``keep`` stores the secrets. It is called before the commit, so that a crash in between cannot leave an
    installation with unknown keys: secrets stored without a commit are replaced at the next start.
    """
    async with postgres.transaction() as transaction:
        await transaction.execute("lock_bootstrap", _LOCK)
        if await transaction.fetchval("any_org"):
            return None
        tenant = await _make(transaction)
        keep(tenant)
    return tenant


async def _make(transaction: Transaction) -> FirstTenant:
    org_id, workspace_id, project_id, user_id = OrgId(uuid7()), WorkspaceId(uuid7()), ProjectId(uuid7()), uuid7()
    api_key, operator_key = keys.generate(), keys.generate()
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    await transaction.execute("insert_org", org_id, ORG_NAME, PLAN)
    await transaction.execute("insert_workspace", workspace_id, org_id, WORKSPACE_NAME)
    await transaction.execute("insert_project", project_id, workspace_id, PROJECT_NAME)
    await transaction.execute("insert_user", user_id, ADMIN_EMAIL, "Administrator", PasswordHasher().hash(password))
    await transaction.execute("insert_org_member", org_id, user_id, "owner")
    await transaction.execute(
        "insert_key",
        api_key.public_id,
        org_id,
        workspace_id,
        project_id,
        "first key",
        api_key.secret_hash,
        [Scope.INGEST_WRITE, Scope.READ, Scope.ADMIN],
    )
    await transaction.execute(
        "insert_key", operator_key.public_id, None, None, None, "operator", operator_key.secret_hash, [Scope.OPERATOR]
    )
    await _record(
        transaction,
        Event(EventType.ORG_CREATED, org_id, ACTOR, "org", str(org_id), {"name": ORG_NAME, "plan": PLAN}),
        Event(EventType.WORKSPACE_CREATED, org_id, ACTOR, "workspace", str(workspace_id)),
        Event(EventType.PROJECT_CREATED, org_id, ACTOR, "project", str(project_id)),
        Event(EventType.API_KEY_CREATED, org_id, ACTOR, "api_key", api_key.public_id),
        Event(EventType.API_KEY_CREATED, None, ACTOR, "api_key", operator_key.public_id),
    )
    return FirstTenant(org_id, workspace_id, project_id, ADMIN_EMAIL, api_key.key, operator_key.key, password)


async def _record(transaction: Transaction, *events: Event) -> None:
    writer = AuditWriter()
    for event in events:
        await writer.record(transaction, event)
