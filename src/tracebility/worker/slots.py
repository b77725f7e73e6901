"""Slots of attributes, grouped by how their values are read and by what becomes of them."""

from collections.abc import Collection
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tracebility.wire.conventions import READERS, Slot
from tracebility.wire.span_columns import COUNT, LABEL, SPAN_COLUMNS, TEXT

Flags: TypeAlias = npt.NDArray[np.bool_]

KIND, TOOL, MODEL, REQUEST_MODEL, PROVIDER = map(
    int, (Slot.KIND, Slot.TOOL_NAME, Slot.MODEL, Slot.REQUEST_MODEL, Slot.PROVIDER)
)
ENVIRONMENT, ERROR_TYPE, SESSION, USER = map(int, (Slot.ENVIRONMENT, Slot.ERROR_TYPE, Slot.SESSION_ID, Slot.USER_ID))
INPUTS, OUTPUTS, SYSTEM = int(Slot.INPUTS), int(Slot.OUTPUTS), int(Slot.SYSTEM_INSTRUCTIONS)
TAGS, METADATA = int(Slot.TAGS), int(Slot.METADATA)

# Two numbers beyond the slots: an attribute without a slot, and an attribute that is one part of a list.
OTHER, LIST_PART = len(Slot), len(Slot) + 1

# The numbers that `usage.settle` takes, in its order.
USAGE = tuple(range(int(Slot.INPUT_TOKENS), int(Slot.OUTPUT_COST) + 1))
# Labels are stored in dictionaries of distinct values. Labels and texts without an entry in READERS are cut after
# LABEL_CHARS.
_LABELS_IN_COLUMNS = tuple(int(one.slot) for one in SPAN_COLUMNS if one.type == LABEL and one.slot is not None)
LABELS = (*_LABELS_IN_COLUMNS, TOOL)
_TEXTS_IN_COLUMNS = tuple(int(one.slot) for one in SPAN_COLUMNS if one.type == TEXT and one.slot is not None)
TEXTS = (*_TEXTS_IN_COLUMNS, SYSTEM)
_SHORT = tuple(slot for slot in (*LABELS, *TEXTS) if Slot(slot) not in READERS)
COUNTS = tuple(
    int(one.slot) for one in SPAN_COLUMNS if one.type == COUNT and one.slot is not None and int(one.slot) not in USAGE
)
NUMBERS = (*USAGE, *COUNTS)
_TOKENS = tuple(int(slot) for slot in Slot if slot.name.endswith("_TOKENS"))
# Stored as attributes too, because the column holds less than was sent.
_ALSO_ATTRIBUTES = (KIND, int(Slot.INPUT_COST), int(Slot.OUTPUT_COST))


def _flags(slots: Collection[int]) -> Flags:
    flags = np.zeros(len(Slot) + 2, np.bool_)
    flags[list(slots)] = True
    return flags


# One flag for each slot, for lookups by arrays of slots.
IS_LABEL, IS_TEXT, IS_SHORT, IS_NUMBER, IS_TOKENS, IS_ALSO_ATTRIBUTE = map(
    _flags, (LABELS, TEXTS, _SHORT, NUMBERS, _TOKENS, _ALSO_ATTRIBUTES)
)
