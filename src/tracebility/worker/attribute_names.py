"""Attribute names, numbered, with the slot that each one fills."""

from array import array

from tracebility.stores import native_format as native
from tracebility.wire.conventions import RuleTable
from tracebility.wire.limits import LABEL_CHARS
from tracebility.worker import slots
from tracebility.worker.message_assembly import ListPlans


class AttributeNames(dict[bytes, int]):
    """Numbers of attribute names in order of first use, and the rule of each name, looked up once.

    Clients choose the names, so the table is bounded.
    """

    MAX_NAMES = 20_000
    MAX_BYTES = 4 << 20

    def __init__(self, table: RuleTable) -> None:
        super().__init__()
        self.table = table
        self.plans = ListPlans()
        self.reset()

    def reset(self) -> None:
        """Delete all names and list plans. Numbers handed out before become invalid."""
        self.clear()
        self.plans.clear()
        # By number of the name:
        self.slots = array("q")  # `slots.LIST_PART` for parts of lists
        self.list_slots = array("q")  # the slot that the list fills
        self.ranks = array("q")
        self.paths: list[tuple[int | str, ...]] = []
        self.cells: list[bytes] = []
        self._bytes = 0

    def reset_if_full(self) -> None:
        """Delete all names if there are too many. Call this only between chunks, whose numbers must stay valid."""
        if len(self) > self.MAX_NAMES or self._bytes > self.MAX_BYTES:
            self.reset()

    def __missing__(self, name: bytes) -> int:
        text = name.decode()
        rule = self.table[text]
        slot, rank, path = slots.OTHER, 0, None
        if rule is not None and rule.slot >= 0:
            slot, rank, path = rule.slot, rule.rank, rule.path
        self.slots.append(slot if path is None else slots.LIST_PART)
        self.list_slots.append(slot)
        self.ranks.append(rank)
        self.paths.append(path or ())
        self.cells.append(native.text(text[:LABEL_CHARS]))
        self._bytes += len(name)
        number = self[name] = len(self)
        return number

    def number(self, name: str) -> int:
        """The number of ``name``."""
        return self[name.encode("utf-8", "replace")]
