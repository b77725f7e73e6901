"""What a client is told about single items of its request."""

import msgspec


class Rejection(msgspec.Struct, frozen=True):
    """An item that cannot be stored, and why. Its batch is stored without it.

    ``index`` counts the items of the request from 0, in the order in which they stand in it.
    """

    index: int
    error: str


class ItemWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """A probable mistake in a stored item, or in the whole request (no ``index``)."""

    warning: str
    index: int | None = None
