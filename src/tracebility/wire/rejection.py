"""An item that cannot be kept: which one, and why. Its batch goes on without it."""

import msgspec

from tracebility.wire import limits


class Rejection(msgspec.Struct, frozen=True):
    """``index`` counts the items of the request from 0, in the order in which they stand in it."""

    index: int
    error: str


def named(rejections: list[Rejection]) -> list[Rejection]:
    """As many of ``rejections`` as an answer spells out, each cut to a readable length."""
    return [Rejection(one.index, one.error[: limits.REJECTION_CHARS]) for one in rejections[: limits.REJECTIONS_NAMED]]
