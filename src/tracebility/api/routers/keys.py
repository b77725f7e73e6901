"""Keys of a project. The secret is shown once, in the answer that makes the key."""

from fastapi import Request
from starlette.responses import Response

from tracebility.api import routing
from tracebility.api.answers import answer
from tracebility.api.auth import Administrator, Services
from tracebility.api.bodies import body_of
from tracebility.api.pagination import Asked, Order, Page, read_page
from tracebility.api.schemas import answers, takes
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
from tracebility.tenant.keys import is_public_id

router = routing.router("keys")


# Keys have text ids. The first page begins before every key.
_OLDEST_FIRST = Order(id_column="public_id", first_id="", is_id=is_public_id)


@router.get(
    "/v1/projects/{project_id}/keys",
    summary="The keys of a project",
    responses=answers(Page[ShownKey], "A page of keys, the oldest first."),
)
async def list_keys(holder: Administrator, place: NamedProject, services: Services, asked: Asked) -> Response:
    """Also revoked and expired keys. No secret is shown."""
    page = await read_page(
        services.control,
        "read_keys_of_project",
        place.project_id,
        asked=asked,
        owner=b"keys" + place.project_id.bytes,
        shape=shape_key,
        order=_OLDEST_FIRST,
    )
    return answer(page)


@router.post(
    "/v1/projects/{project_id}/keys",
    summary="Make a key",
    status_code=201,
    responses=answers(MadeKey, "The key, shown once.", 201),
    openapi_extra=takes(NewKey),
)
async def make_key(request: Request, holder: Administrator, place: NamedProject, services: Services) -> Response:
    """It has at most the scopes of the key of this request, and optionally a lower rate than its org."""
    new = await body_of(request, NewKey)
    async with services.changing() as transaction:
        made = await create_key(transaction, holder.actor, place, new, services.now(), holder.givable())
    return answer(made, 201)


@router.delete("/v1/projects/{project_id}/keys/{public_id}", summary="Revoke a key", status_code=204)
async def delete_key(holder: Administrator, public_id: NamedKey, services: Services) -> Response:
    """The key is refused within a second. Revoking it again changes nothing."""
    async with services.changing() as transaction:
        await revoke_key(transaction, holder.actor, public_id)
    return Response(status_code=204)


@router.post(
    "/v1/projects/{project_id}/keys/{public_id}/rotate",
    summary="Replace a key",
    status_code=201,
    responses=answers(RotatedKey, "The new key, shown once, and when the old one expires.", 201),
    openapi_extra=takes(Rotation, required=False),
)
async def replace_key(request: Request, holder: Administrator, public_id: NamedKey, services: Services) -> Response:
    """The new key has the name, scopes, expiry and rate of the old one. Both are valid until the old one expires."""
    rotation = await body_of(request, Rotation, if_none=Rotation())
    async with services.changing() as transaction:
        made = await rotate_key(transaction, holder.actor, public_id, rotation, holder.givable())
    return answer(made, 201)
