"""The value that fills each slot of each span: the best of its attributes, lists spelled by index, and events."""

from collections.abc import Mapping

import msgspec
import numpy as np

from tracebility.stores import native_format as native
from tracebility.wire.conventions import Slot
from tracebility.wire.otlp import spans as wire_spans
from tracebility.worker import slots
from tracebility.worker.attribute_values import AttributeValues, Numbers

_NO_RANK = 1 << 30  # worse than every rank


class SlotValues:
    """``chosen[slot, span]`` is the attribute that fills a slot; -1: none, or a text in ``assembled``."""

    def __init__(self, values: AttributeValues) -> None:
        self._values = values
        self.chosen = _choose(values)
        # Texts put together from several attributes or from events: cells by slot and span.
        self.assembled: dict[int, dict[int, bytes]] = {slot: {} for slot in (slots.INPUTS, slots.OUTPUTS, slots.SYSTEM)}
        # The list that fills a slot of a span: its rank and its attributes.
        self._lists: dict[tuple[int, int], tuple[int, Numbers]] = {}

    def read_lists(self) -> None:
        """Assemble the lists that attributes spell by index, where no better attribute fills the slot."""
        values = self._values
        parts = np.flatnonzero(values.slot == slots.LIST_PART)
        if not parts.size:
            return
        names, attributes = values.names, values.spans.attributes
        slot = np.array(names.list_slots, np.int64)[values.key[parts]]
        rank = values.rank[parts]
        group = (attributes.span[parts] * len(Slot) + slot) << 16 | rank
        order = np.argsort(group, kind="stable")
        parts, group, slot, rank = parts[order], group[order], slot[order], rank[order]
        begins = np.flatnonzero(np.diff(group, prepend=-1))
        keys = values.key[parts].tolist()
        encoded = self._as_json(parts)
        bounds = [*begins.tolist(), len(parts)]
        spans = attributes.span[parts[begins]].tolist()
        for nth, (span, list_slot, list_rank) in enumerate(
            zip(spans, slot[begins].tolist(), rank[begins].tolist(), strict=True)
        ):
            begin, end = bounds[nth], bounds[nth + 1]
            if list_rank >= self.best_rank(list_slot, span):
                continue
            plan = names.plans.plan(tuple(keys[begin:end]), names.paths)
            self.assembled[list_slot][span] = native.cell(plan.fill(encoded[begin:end]))
            members = parts[begin:end]
            self._lists[list_slot, span] = list_rank, members
            values.is_usable[members] = True
            values.is_usable[members[plan.unplaced]] = False
            self.chosen[list_slot, span] = -1

    def best_rank(self, slot: int, span: int) -> int:
        """The rank of the value that fills a slot of a span so far."""
        known = self._lists.get((slot, span))
        if known is not None:
            return known[0]
        chosen = self.chosen[slot, span]
        return int(self._values.rank[chosen]) if chosen >= 0 else _NO_RANK

    def replace(self, span: int, texts: Mapping[int, str]) -> None:
        """Fill slots of a span with ``texts``. The attributes that filled them before stay attributes."""
        for slot, text in texts.items():
            self.assembled[slot][span] = native.text(text)
            self.chosen[slot, span] = -1
            replaced = self._lists.pop((slot, span), None)
            if replaced is not None:
                self._values.is_usable[replaced[1]] = False

    def _as_json(self, parts: Numbers) -> list[bytes]:
        values = self._values
        spans, is_text = values.spans, values.is_text[parts]
        texts, encode = parts[is_text], msgspec.json.encode
        _, start = wire_spans.varints_at(spans.data, spans.attributes.text_at[texts], 4)
        encoded = [encode(text.decode()) for text in wire_spans.cut(spans.buffer, start, spans.attributes.end[texts])]
        if len(texts) == len(parts):
            return encoded
        result = [b""] * len(parts)
        for place, text in zip(np.flatnonzero(is_text).tolist(), encoded, strict=True):
            result[place] = text
        for place in np.flatnonzero(~is_text).tolist():
            result[place] = encode(values.decoded(int(parts[place])))
        return result


def _choose(values: AttributeValues) -> Numbers:
    """By slot and span: the attribute of the best rank, the first one of equals; -1 for none."""
    span = values.spans.attributes.span
    chosen = np.full((len(Slot), len(values.spans.starts)), -1, np.int64)
    usable = np.flatnonzero(values.is_usable & (values.slot < slots.OTHER))
    slot = values.slot[usable]
    for one in np.flatnonzero(np.bincount(slot, minlength=len(Slot))):
        candidates = usable[slot == one][::-1]
        ranks = values.rank[candidates]
        if ranks.min() != ranks.max():
            candidates = candidates[np.argsort(-ranks, kind="stable")]
        chosen[one, span[candidates]] = candidates  # of several writes to one element, the last one stays
    return chosen
