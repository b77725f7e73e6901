"""Values of attributes, read as their slots require, for all attributes of thousands of spans together.

Text is copied from the request with its length prefix and never becomes a Python string. Only values of unusual types
are decoded one by one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tracebility.stores import native_format as native
from tracebility.wire.conventions import (
    MAX_TOKENS,
    READERS,
    Slot,
    read_kind,
    read_object,
    read_payload,
    read_strings,
    read_text,
)
from tracebility.wire.limits import LABEL_CHARS
from tracebility.wire.limits import TAGS as MAX_TAGS
from tracebility.wire.otlp import spans as wire_spans
from tracebility.wire.otlp.spans import DOUBLE, INT, NOTHING, STRING, Spans
from tracebility.wire.otlp.values import read_any
from tracebility.worker import slots
from tracebility.worker.attribute_names import AttributeNames
from tracebility.worker.slots import Flags

Numbers: TypeAlias = npt.NDArray[np.int64]

_NUMBER_READERS: Mapping[int, Callable[[Any], int | None]] = {slot: READERS[Slot(slot)] for slot in slots.NUMBERS}


class Labels(dict[bytes, int]):
    """Cells of texts that repeat, numbered in order of first use. The empty text is number 0."""

    def __init__(self) -> None:
        super().__init__({native.EMPTY_TEXT: 0})

    def __missing__(self, cell: bytes) -> int:
        number = self[cell] = len(self)
        return number


class AttributeValues:
    """Arrays with one element for each attribute of a chunk: its slot and its value.

    ``label`` and ``number`` have one more element, a 0: index -1 stands for a missing attribute.
    """

    def __init__(self, names: AttributeNames, spans: Spans) -> None:
        self.names, self.spans = names, spans
        attributes = spans.attributes
        cut = wire_spans.cut(spans.buffer, attributes.key_at, attributes.key_end)
        self.key = np.fromiter(map(names.__getitem__, cut), np.int64, len(cut))
        self.slot = np.array(names.slots, np.int64)[self.key]
        self.rank = np.array(names.ranks, np.int64)[self.key]
        self.is_text = attributes.form == STRING
        # The value has the type that its slot requires.
        self.is_usable = np.zeros(len(cut), np.bool_)
        # Stored as an attribute even if it fills a column.
        self.is_kept = slots.IS_ALSO_ATTRIBUTE[self.slot]
        self.labels = Labels()
        self.label = np.zeros(len(cut) + 1, np.int64)
        self.number = np.zeros(len(cut) + 1, np.int64)  # for tags and metadata: an index into the lists below
        self.changed_cells: dict[int, bytes] = {}  # texts that are stored otherwise than they were sent, by attribute
        self.tags: list[Sequence[bytes]] = [()]
        self.metadata: list[tuple[Sequence[int], Sequence[bytes]]] = [((), ())]
        self.metadata_keys: dict[str, int] = {}

    def read(self) -> None:
        """Read all values.

        Raises:
            DecodeError: when a value is not valid protobuf.
        """
        self._read_labels()
        self._read_texts()
        self._read_numbers()
        self._read_structures()

    def decoded(self, attribute: int) -> Any:
        """The value of one attribute as a Python object."""
        attributes = self.spans.attributes
        if attributes.form[attribute] == NOTHING:
            return None
        at = attributes.text_at[attribute] - 1
        return read_any(AnyValue.FromString(self.spans.buffer[at : attributes.end[attribute]]))

    def _sent(self, attribute: Numbers) -> list[bytes]:
        """The bytes of the values of these attributes, without their tags."""
        attributes = self.spans.attributes
        return wire_spans.cut(self.spans.buffer, attributes.text_at[attribute], attributes.end[attribute])

    def _split(self, is_wanted: Flags) -> tuple[Numbers, Numbers]:
        """The attributes of the wanted slots: those with a text that is not empty, and those that are not text."""
        attributes = self.spans.attributes
        wanted = is_wanted[self.slot]
        return (
            np.flatnonzero(wanted & self.is_text & (attributes.end - attributes.text_at > 1)),
            np.flatnonzero(wanted & ~self.is_text),
        )

    def _read_labels(self) -> None:
        texts, others = self._split(slots.IS_LABEL)
        labels, buffer, attributes = self.labels, self.spans.buffer, self.spans.attributes
        sent = self._sent(texts)
        self.label[texts] = np.fromiter(map(labels.__getitem__, sent), np.int64, len(sent))
        self.is_usable[texts] = True
        sizes = attributes.end[texts] - attributes.text_at[texts]
        for attribute in texts[sizes > LABEL_CHARS].tolist():
            text = native.read_text(buffer[attributes.text_at[attribute] : attributes.end[attribute]])
            if len(text) > LABEL_CHARS and self.slot[attribute] != slots.KIND:
                self.label[attribute] = labels[native.text(text[:LABEL_CHARS])]
                self.is_kept[attribute] = True
        for attribute in others.tolist():
            number = read_text(self.decoded(attribute))
            if number is not None and self.slot[attribute] != slots.KIND:
                self.label[attribute] = labels[native.text(number)]
                self.is_usable[attribute] = True
        self._translate_kinds()

    def _translate_kinds(self) -> None:
        """Replace each dialect's kinds by ours. Each distinct spelling is looked up once."""
        kinds = np.flatnonzero(self.slot == slots.KIND)
        distinct = np.unique(self.label[kinds])
        cells = list(self.labels)
        translated = np.zeros(len(cells), np.int64)
        for label in distinct.tolist():
            kind = read_kind(native.read_text(cells[label]))
            translated[label] = 0 if kind is None else self.labels[native.text(kind)]
        self.label[kinds] = translated[self.label[kinds]]
        self.is_usable[kinds] = self.label[kinds] > 0

    def _read_texts(self) -> None:
        texts, others = self._split(slots.IS_TEXT)
        attributes = self.spans.attributes
        self.is_usable[texts] = True
        sizes = attributes.end[texts] - attributes.text_at[texts]
        for attribute in texts[slots.IS_SHORT[self.slot[texts]] & (sizes > LABEL_CHARS)].tolist():
            [sent] = self._sent(np.array([attribute]))
            text = native.read_text(sent)
            if len(text) > LABEL_CHARS:
                self.changed_cells[attribute] = native.text(text[:LABEL_CHARS])
                self.is_kept[attribute] = True
        for attribute in others.tolist():
            read = read_text if slots.IS_SHORT[self.slot[attribute]] else read_payload
            converted = read(self.decoded(attribute))
            if converted is not None:
                self.changed_cells[attribute] = native.text(converted)
                self.is_usable[attribute] = True

    def _read_numbers(self) -> None:
        attributes, data = self.spans.attributes, self.spans.data
        is_number = slots.IS_NUMBER[self.slot]
        ints = np.flatnonzero(is_number & (attributes.form == INT))
        values = wire_spans.varints_at(data, attributes.text_at[ints], 10)[0].view(np.int64)
        is_usual = slots.IS_TOKENS[self.slot[ints]] & (values >= 0) & (values <= MAX_TOKENS)
        self.number[ints[is_usual]] = values[is_usual]
        self.is_usable[ints[is_usual]] = True
        doubles = np.flatnonzero(is_number & (attributes.form == DOUBLE))
        floats = wire_spans.numbers_at(data, attributes.text_at[doubles]).view(np.float64)
        others = np.flatnonzero(is_number & (attributes.form != INT) & (attributes.form != DOUBLE))
        self._convert_numbers(ints[~is_usual], values[~is_usual].tolist())
        self._convert_numbers(doubles, floats.tolist())
        self._convert_numbers(others, map(self.decoded, others.tolist()))

    def _convert_numbers(self, attributes: Numbers, values: Iterable[Any]) -> None:
        for attribute, slot, value in zip(attributes.tolist(), self.slot[attributes].tolist(), values, strict=True):
            number = _NUMBER_READERS[slot](value)
            if number is not None:
                self.number[attribute] = number
                self.is_usable[attribute] = True

    def _read_structures(self) -> None:
        """Read tags and metadata. Spans of a trace often repeat them, so each distinct value is parsed once."""
        known: dict[tuple[int, int, bytes], tuple[int, bool]] = {}
        found = np.flatnonzero((self.slot == slots.TAGS) | (self.slot == slots.METADATA))
        if not found.size:
            return
        sent, forms, slot = self._sent(found), self.spans.attributes.form[found].tolist(), self.slot[found].tolist()
        for attribute, key in zip(found.tolist(), zip(slot, forms, sent, strict=True), strict=True):
            parsed = known.get(key)
            if parsed is None:
                parsed = known[key] = self._read_structure(key[0], self.decoded(attribute))
            number, is_cut = parsed
            if number:
                self.number[attribute] = number
                self.is_usable[attribute] = True
                self.is_kept[attribute] = is_cut

    def _read_structure(self, slot: int, value: Any) -> tuple[int, bool]:
        """Index into ``tags`` or ``metadata`` (0: not readable), and whether something had to be cut off."""
        if slot == slots.METADATA:
            members = read_object(value)
            if members is None:
                return 0, False
            keys = self.metadata_keys
            numbers = [keys.setdefault(key, len(keys)) for key in members]
            self.metadata.append((numbers, list(map(native.text, members.values()))))
            return len(self.metadata) - 1, False
        tags = read_strings(value)
        if tags is None:
            return 0, False
        self.tags.append([native.text(tag[:LABEL_CHARS]) for tag in tags[:MAX_TAGS]])
        return len(self.tags) - 1, len(tags) > MAX_TAGS or max(map(len, tags)) > LABEL_CHARS
