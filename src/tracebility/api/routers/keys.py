"""Keys of a project. A secret is shown once, when it is made."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from tracebility.api import cursor
from tracebility.api.answers import LIMIT_DEFAULT, CursorText, Limit, answer, schema_of
from tracebility.api.auth import Administrator, Services
from tracebility.api.bodies import body_of, takes
from tracebility.api.scope import NamedKey, NamedProject
from tracebility.orgs.keys import (
    MadeKey,
    NewKey,
    RotatedKey,
    Rotation,
    ShownKey,
    create_key,
    revoke_key,
    rotate_key,
    shape_key,
)

router = APIRouter(tags=["keys"])


class KeyPage(msgspec.Struct, kw_only=True):
    """A page of keys, the oldest first."""

    items: list[ShownKey]
    next_cursor: str | None


@router.get(
    "/v1/projects/{project_id}/keys",
    summary="The keys of a project",
    responses=schema_of(KeyPage, "A page of keys, the oldest first."),
)
async def list_keys(
    holder: Administrator,
    place: NamedProject,
    services: Services,
    limit: Limit = LIMIT_DEFAULT,
    cursor_text: CursorText = None,
) -> Response:
    """Revoked and expired ones too, none with its secret."""
    owner = b"keys" + place.project_id.bytes
    created_at, last = cursor.unseal_made(cursor_text, owner) if cursor_text is not None else (cursor.EPOCH, b"")
    if last and not (last.isascii() and last.isalnum()):
        raise cursor.unfit()
    rows = await services.control.fetch(
        "read_keys_of_project", place.project_id, created_at, last.decode("ascii"), limit + 1
    )
    items = rows[:limit]
    more = len(rows) > limit
    return answer(
        KeyPage(
            items=[shape_key(row) for row in items],
            next_cursor=cursor.seal_made(items[-1]["created_at"], items[-1]["public_id"].encode(), owner)
            if more
            else None,
        )
    )


@router.post(
    "/v1/projects/{project_id}/keys",
    summary="Make a key",
    status_code=201,
    responses=schema_of(MadeKey, "The key, shown once.", 201),
    openapi_extra=takes(NewKey),
)
async def make_key(request: Request, holder: Administrator, place: NamedProject, services: Services) -> Response:
    """With at most the scopes of the key that makes it, and a lower rate than the org's if need be."""
    new = await body_of(request, NewKey)
    async with services.changing() as transaction:
        made = await create_key(transaction, holder.actor, place, new, services.now(), holder.givable())
    return answer(made, 201)


@router.delete("/v1/projects/{project_id}/keys/{public_id}", summary="Revoke a key", status_code=204)
async def delete_key(holder: Administrator, public_id: NamedKey, services: Services) -> Response:
    """It is refused within a second. Revoking it again changes nothing."""
    async with services.changing() as transaction:
        await revoke_key(transaction, holder.actor, public_id)
    return Response(status_code=204)


@router.post(
    "/v1/projects/{project_id}/keys/{public_id}/rotate",
    summary="Replace a key",
    status_code=201,
    responses=schema_of(RotatedKey, "The new key, shown once, and when the old one ends.", 201),
    openapi_extra=takes(Rotation, required=False),
)
async def replace_key(request: Request, holder: Administrator, public_id: NamedKey, services: Services) -> Response:
    """The new key takes over name, scopes, expiry and rate; both are good until the old one ends."""
    rotation = await body_of(request, Rotation, if_none=Rotation())
    async with services.changing() as transaction:
        made = await rotate_key(transaction, holder.actor, public_id, rotation, holder.givable())
    return answer(made, 201)
