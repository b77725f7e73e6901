"""Rejections of and warnings about single items of a request."""

import msgspec


class Rejection(msgspec.Struct, frozen=True):
    """An item that cannot be stored, and the reason. The other items of its request are stored.

    ``index`` is the position of the item in the request, from 0.
    """

    index: int
    error: str


class ItemWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """A probable mistake in a stored item, or in the whole request (no ``index``)."""

    warning: str
    index: int | None = None
