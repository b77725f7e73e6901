"""An item that cannot be kept: which one, and why. Its batch goes on without it."""

import msgspec


class Rejection(msgspec.Struct, frozen=True):
    """``index`` counts the items of the request from 0, in the order in which they stand in it."""

    index: int
    error: str
