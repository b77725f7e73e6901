"""``tracebility keys``: the keys of a project, and those of operators, for whoever runs the installation."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from tracebility.audit.events import Actor
from tracebility.commands.changes import changing, document, id_of, now, project_of, reading
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.errors import TracebilityError
from tracebility.ids import PublicKeyId
from tracebility.orgs import keys
from tracebility.orgs.keys import MadeKey, RotatedKey, ShownKey, shape_key
from tracebility.stores.postgres import Postgres, Transaction
from tracebility.tenant.keys import PUBLIC_ID_CHARS, is_public_id
from tracebility.validation import checked

PublicId = Annotated[
    str, typer.Argument(help="The key's public id: what stands between tb_ and the secret.", metavar="PUBLIC_ID")
]

ProjectOrOperators = Annotated[
    UUID | None,
    typer.Argument(
        help="The project's id; without one, operators' keys are meant.", metavar="PROJECT", parser=id_of,
        show_default=False,
    ),
]  # fmt: skip

app = new_app()


@app.command("list")
def list_keys(
    project_id: ProjectOrOperators = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many, oldest first.")] = 1000,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List a project's keys, or operators', oldest first, revoked and expired ones too; never their secrets.

    Examples:

      tracebility keys list 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a

      tracebility keys list
    """

    async def read(control: Postgres) -> list[ShownKey]:
        if project_id is None:
            return [shape_key(row) for row in await control.fetch("read_keys_of_operators", limit)]
        place = await project_of(control, project_id)
        first = datetime(1970, 1, 1, tzinfo=UTC)
        rows = await control.fetch("read_keys_of_project", place.project_id, first, "", limit)
        return [shape_key(row) for row in rows]

    found = reading(data_dir, read)
    text = "\n".join(_line(key) for key in found) or "There are no keys."
    tell(text, {"items": document(found)}, as_json=as_json)


@app.command("create")
def create_key(
    name: Annotated[str, typer.Option("--name", help="What it is for.")],
    scopes: Annotated[
        list[str], typer.Option("--scope", help="ingest:write, read or admin, as often as need be; operator alone.")
    ],
    project_id: ProjectOrOperators = None,
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", help="RFC 3339 with a zone.", show_default="never")
    ] = None,
    requests_per_s: Annotated[
        int | None, typer.Option("--requests-per-s", help="A lower rate than its org's.", show_default=False)
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", help="Requests at once after a pause.", show_default="a second's worth")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for a project, or an operator's; it is shown this once.

    Examples:

      tracebility keys create 0192f0c1-5a3e-7c41-9d0a-1f2e3d4c5b6a --name ci --scope ingest:write --scope read

      tracebility keys create 0192f0c1-... --name trial --scope read --expires-at 2027-01-01T00:00:00Z

      tracebility keys create --name deployer --scope operator
    """
    if burst is not None and requests_per_s is None:
        raise TracebilityError("--burst needs --requests-per-s.")
    if (project_id is None) != (scopes == ["operator"]) or (project_id is None and requests_per_s is not None):
        raise TracebilityError(
            "scopes: a project's key takes some of ingest:write, read, admin; an operator's takes operator alone, no "
            "PROJECT and no rate."
        )
    rate = None if requests_per_s is None else {"requests_per_s": requests_per_s, "burst": burst}

    async def make(transaction: Transaction, actor: Actor) -> MadeKey:
        if project_id is None:
            operators = checked(keys.NewOperatorKey, {"name": name, "expires_at": expires_at})
            return await keys.create_operator_key(transaction, actor, operators, now())
        new = checked(keys.NewKey, {"name": name, "scopes": scopes, "expires_at": expires_at, "rate": rate})
        return await keys.create_key(transaction, actor, await project_of(transaction, project_id), new, now())

    made = changing(data_dir, make)
    tell(f"{made.key}\nThe key is not shown again.", document(made), as_json=as_json)


@app.command("rotate")
def rotate_key(
    public_id: PublicId,
    overlap_s: Annotated[
        int, typer.Option("--overlap-s", help="The old key goes on for so long; 0 ends it now.")
    ] = 3600,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key in the place of another, which goes on beside it for a while.

    Examples:

      tracebility keys rotate 4fQz0aBcD1eF

      tracebility keys rotate 4fQz0aBcD1eF --overlap-s 0
    """
    known = _public_id(public_id)

    async def rotate(transaction: Transaction, actor: Actor) -> RotatedKey:
        rotation = checked(keys.Rotation, {"overlap_s": overlap_s})
        if await transaction.fetchrow("lock_key", known) is None:
            raise _no_key(known)
        return await keys.rotate_key(transaction, actor, known, rotation)

    made = changing(data_dir, rotate)
    text = f"{made.key}\nThe key is not shown again. The old one ends at {made.old_expires_at}."
    tell(text, document(made), as_json=as_json)


@app.command("revoke")
def revoke_key(public_id: PublicId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """End a key for good. Every process refuses it within a second.

    Examples:

      tracebility keys revoke 4fQz0aBcD1eF
    """
    known = _public_id(public_id)

    async def revoke(transaction: Transaction, actor: Actor) -> bool:
        if await transaction.fetchrow("lock_key", known) is None:
            raise _no_key(known)
        return await keys.revoke_key(transaction, actor, known)

    revoked = changing(data_dir, revoke)
    text = "Revoked." if revoked else "It was revoked before."
    tell(text, {"public_id": known, "revoked": True, "changed": revoked}, as_json=as_json)


def _public_id(text: str) -> PublicKeyId:
    """The public id that ``text`` is. The message never repeats ``text``: it may be a whole key, or its secret."""
    if not is_public_id(text):
        raise TracebilityError(
            f"PUBLIC_ID takes the {PUBLIC_ID_CHARS} characters between tb_ and the secret, not a whole key. "
            "'tracebility keys list [PROJECT]' shows them."
        )
    return PublicKeyId(text)


def _no_key(public_id: PublicKeyId) -> TracebilityError:
    return TracebilityError(f"There is no key {public_id}. 'tracebility keys list [PROJECT]' shows those there are.")


def _line(key: ShownKey) -> str:
    state = f"revoked {key.revoked_at}" if key.revoked_at else f"expires {key.expires_at}" if key.expires_at else ""
    used = f"used {key.last_used_at}" if key.last_used_at else "never used"
    return f"{key.public_id}  {key.created_at}  {used}  {','.join(key.scopes):<23}  {key.name}  {state}".rstrip()
