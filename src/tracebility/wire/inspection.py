"""What the edge finds in a body: how much can be kept, what cannot and why, and what to enqueue."""

from dataclasses import dataclass

from tracebility.wire.rejection import ItemWarning, Rejection


@dataclass(frozen=True, slots=True)
class Part:
    """Items that travel in one envelope. ``rejected`` are positions in ``body`` of items that are not to be kept."""

    body: bytes
    items: int
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """A body that was read.

    ``parts`` is empty when the body may travel as it came, the items at the positions in ``passed_over`` being the
    rejected ones; otherwise the parts travel in its place, without what could not be read.
    """

    items: int
    rejected: list[Rejection]
    parts: tuple[Part, ...] = ()
    warnings: tuple[ItemWarning, ...] = ()

    @property
    def passed_over(self) -> tuple[int, ...]:
        return tuple(one.index for one in self.rejected)
