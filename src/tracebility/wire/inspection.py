"""The result of inspecting a body: the number of accepted items, the rejected ones, and the bodies to enqueue."""

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
    """The result for one body.

    Without ``parts`` the body is enqueued unchanged, and the worker skips the items at the positions ``skipped``.
    Otherwise the parts are enqueued instead, without the rejected items.
    """

    items: int
    rejected: list[Rejection]
    parts: tuple[Part, ...] = ()
    warnings: tuple[ItemWarning, ...] = ()

    @property
    def skipped(self) -> tuple[int, ...]:
        return tuple(one.index for one in self.rejected)
