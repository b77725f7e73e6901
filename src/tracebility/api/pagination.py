"""Lists in pages: ``?limit=`` and ``?cursor=`` in, ``{"items", "next_cursor"}`` out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar
from uuid import UUID

import msgspec
from fastapi import Depends, Query

from tracebility.api import cursor
from tracebility.stores.postgres import Row, Statements

LIMIT_DEFAULT = 50
LIMIT_MOST = 200  # the largest page, and with it what one answer costs at most

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """A page of a list. `next_cursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page a request asks for."""

    limit: int = LIMIT_DEFAULT
    cursor: str | None = None


async def page_query(
    limit: Annotated[int, Query(ge=1, le=LIMIT_MOST, description="Largest number of items to answer.")] = LIMIT_DEFAULT,
    cursor_text: Annotated[
        str | None, Query(alias="cursor", description="`next_cursor` of the page before, unchanged.")
    ] = None,
) -> PageQuery:
    """The page that the query parameters ask for."""
    return PageQuery(limit, cursor_text)


Asked = Annotated[PageQuery, Depends(page_query)]


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list in the control plane: by a time, then by an id."""

    time_column: str = "created_at"
    id_column: str = "id"
    first_time: datetime = cursor.EPOCH
    first_id: str = str(UUID(int=0))
    is_id: Callable[[str], bool] = lambda text: _is_uuid(text)


OLDEST_FIRST = Order()
NEWEST_REQUEST_FIRST = Order(time_column="requested_at", first_time=datetime(9000, 1, 1, tzinfo=UTC))


async def read_page(
    control: Statements,
    statement: str,
    *filters: object,
    asked: PageQuery,
    owner: bytes,
    shape: Callable[[Row], T],
    order: Order = OLDEST_FIRST,
) -> Page[T]:
    """A page of what ``statement`` finds.

    Its arguments are ``filters``, the time and id after which the page begins, and how many rows to read. ``owner`` is
    the list's kind and its tenant: a cursor fits no other list.

    Raises:
        BadRequest: when the cursor is not one of this list.
    """
    rows = await control.fetch(statement, *filters, *_begin(asked.cursor, owner, order), asked.limit + 1)
    return Page(items=[shape(row) for row in rows[: asked.limit]], next_cursor=_next(rows, asked.limit, owner, order))


def _begin(text: str | None, owner: bytes, order: Order) -> tuple[datetime, str]:
    if text is None:
        return order.first_time, order.first_id
    at, last = cursor.unseal_made(text, owner)
    last_id = last.decode("ascii", "replace")
    if not order.is_id(last_id):
        raise cursor.unfit()
    return at, last_id


def _next(rows: Sequence[Row], limit: int, owner: bytes, order: Order) -> str | None:
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return cursor.seal_made(last[order.time_column], str(last[order.id_column]).encode(), owner)


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
