"""The result of reading a body: how many items are accepted, which are rejected and why, and what to enqueue."""

from dataclasses import dataclass

from tracebility.wire.rejection import ItemWarning, Rejection


@dataclass(frozen=True, slots=True)
class Part:
    """The items of one envelope. ``rejected``: positions in ``body`` of items that the worker skips."""

    body: bytes
    items: int
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """A body that was read.

    Without ``parts`` the body is enqueued as it came, and the worker skips the items at ``passed_over``.
    Otherwise the parts are enqueued in its place, without the rejected items.
    """

    items: int
    rejected: list[Rejection]
    parts: tuple[Part, ...] = ()
    warnings: tuple[ItemWarning, ...] = ()

    @property
    def passed_over(self) -> tuple[int, ...]:
        return tuple(one.index for one in self.rejected)
