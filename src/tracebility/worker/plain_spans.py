"""Spans that say what most spans say, mapped thousands at a time and from their bytes straight into columns.

`otlp_rows` is what a span means; this is the same for spans that need nothing rare, at a third of its cost: texts are
cut out of the body, with the length before them, and never become strings. A span with events, links, a list spelled by
index, a value of another kind than its column's, or anything else that is not looked at here, goes the other way; a
property test holds both ways to the same rows.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tracebility.stores import native_format as native
from tracebility.wire import otlp_places
from tracebility.wire.conventions import DEFAULT_KIND, MODEL_KINDS, READERS, RuleTable, Slot, read_kind
from tracebility.wire.limits import LABEL_CHARS, MAX_UNIX_NANO, NAME_CHARS
from tracebility.wire.otlp_places import ARRAY, BOOL, BYTES, DOUBLE, INT, PAIRS, STRING, Attributes, Places, Spans
from tracebility.worker.batch import Batch
from tracebility.worker.otlp_rows import KEPT, STATUSES
from tracebility.worker.usage import settle

Codes: TypeAlias = npt.NDArray[np.int64]
Cuts: TypeAlias = tuple[Places, Places]  # where each text begins, at its length, and ends

_UNSET, _ERROR = 0, 2
_TOOL_KIND, _LLM, _CHAIN = map(native.text, ("tool", "llm", DEFAULT_KIND))
_MODEL_KINDS = tuple(map(native.text, sorted(MODEL_KINDS)))

_KIND, _TOOL, _MODEL, _REQUEST_MODEL, _PROVIDER = map(
    int, (Slot.KIND, Slot.TOOL_NAME, Slot.MODEL, Slot.REQUEST_MODEL, Slot.PROVIDER)
)
_ENVIRONMENT, _ERROR_TYPE = int(Slot.ENVIRONMENT), int(Slot.ERROR_TYPE)
_LABELS = (_KIND, _TOOL, _MODEL, _REQUEST_MODEL, _PROVIDER, _ENVIRONMENT, _ERROR_TYPE)
_TEXTS = tuple(map(int, (Slot.INPUTS, Slot.OUTPUTS, Slot.SESSION_ID, Slot.USER_ID)))
_USAGE = tuple(range(int(Slot.INPUT_TOKENS), int(Slot.OUTPUT_COST) + 1))
_FIRST_TOKEN = int(Slot.TIME_TO_FIRST_TOKEN)
_NUMBERS = (*_USAGE, _FIRST_TOKEN)
_NUMBER_READERS = {slot: READERS[Slot(slot)] for slot in _NUMBERS}
_SHORT = (*_LABELS, int(Slot.SESSION_ID), int(Slot.USER_ID))

# What is not a slot: an attribute like any other, and one that only `otlp_rows` reads.
_OTHER, _RARE = len(Slot), len(Slot) + 1
_FORMS = (STRING, BOOL, INT, DOUBLE, ARRAY, PAIRS, BYTES)


def _fitting() -> npt.NDArray[np.bool_]:
    """By slot and form of value: whether it is read here."""
    fits = np.zeros((len(Slot) + 2, 256), np.bool_)
    fits[_OTHER, _FORMS] = True
    for slot in (*_LABELS, *_TEXTS):
        fits[slot, STRING] = True
    for slot in _NUMBERS:
        fits[slot, [INT, DOUBLE]] = True
    return fits


def _are(slots: Collection[int]) -> npt.NDArray[np.bool_]:
    are = np.zeros(len(Slot) + 2, np.bool_)
    are[list(slots)] = True
    return are


_FITS = _fitting()
_IS_LABEL, _IS_NUMBER, _IS_SHORT, _IS_KEPT = map(_are, (_LABELS, _NUMBERS, _SHORT, KEPT))
_IS_FULL = _are((*_LABELS, *_TEXTS))  # an empty text fills no column: not read here
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


_BY_SPAN = tuple(field for field in Spans._fields if field not in ("buffer", "data", "attributes"))


class _Keys(dict[bytes, int]):
    """Names of attributes, numbered as they come, and what each is for."""

    def __init__(self, table: RuleTable) -> None:
        super().__init__()
        self._table = table
        self.slots: list[int] = []
        self.ranks: list[int] = []

    def __missing__(self, key: bytes) -> int:
        rule = self._table[key.decode()]
        is_rare = rule is not None and (rule.path is not None or not 0 <= rule.slot < _OTHER)
        self.slots.append(_RARE if is_rare else _OTHER if rule is None else rule.slot)
        self.ranks.append(0 if rule is None else rule.rank)
        number = self[key] = len(self)
        return number


class _Labels(dict[bytes, int]):
    """Texts that repeat, with their length before them, numbered as they come; the empty one is 0."""

    def __init__(self) -> None:
        super().__init__({b"\0": 0})

    def __missing__(self, text: bytes) -> int:
        number = self[text] = len(self)
        return number


class Said(NamedTuple):
    """What plain spans say, one entry a span; labels are numbers of ``labels``."""

    spans: Spans
    attributes: Attributes
    keys: _Keys
    key: Codes  # of each attribute
    is_left: npt.NDArray[np.bool_]  # attributes that stay attributes
    labels: _Labels
    name: Codes
    is_renamed: npt.NDArray[np.bool_]  # after its tool; the name it came with becomes an attribute
    kind: Codes
    status: Codes
    error_type: Codes
    model: Codes
    request_model: Codes
    provider: Codes
    environment: Codes
    tokens: npt.NDArray[np.int64]  # by `usage.settle`'s first six, and span
    cost: npt.NDArray[np.int64]  # nanodollars
    has_cost: npt.NDArray[np.bool_]
    cost_source: Codes
    time_to_first_token_ns: npt.NDArray[np.int64]
    texts: dict[int, Cuts]  # by slot


class Reader:
    """One pass over the attributes of spans. Who is not plain is known after it is made; `said` tells of the others."""

    def __init__(self, batch: Batch, spans: Spans) -> None:
        self._batch = batch
        self._spans = spans
        self._keys, self._labels = _Keys(batch.table), _Labels()
        attributes = spans.attributes
        cut = otlp_places.cut(spans.buffer, attributes.key_at, attributes.key_end)
        self._key = np.fromiter(map(self._keys.__getitem__, cut), np.int64, len(cut))
        self._slot = np.array(self._keys.slots, np.int64)[self._key]
        self._rank = np.array(self._keys.ranks, np.int64)[self._key]
        self._label = np.zeros(len(cut), np.int64)
        self._number = np.zeros(len(cut), np.int64)
        self._fits = self._fitting()
        self._take_labels()
        self._take_numbers()
        plain = spans.is_plain
        plain[attributes.span[~self._fits]] = False
        plain &= (spans.start_ns > 0) & (spans.start_ns <= spans.end_ns) & (spans.end_ns <= MAX_UNIX_NANO)
        plain &= spans.name_end - spans.name_at <= NAME_CHARS

    def _fitting(self) -> npt.NDArray[np.bool_]:
        attributes, slot = self._spans.attributes, self._slot
        size = attributes.end - attributes.text_at
        fits = _FITS[slot, attributes.form]
        fits &= ~_IS_FULL[slot] | (size > 1)
        fits &= ~_IS_SHORT[slot] | (size <= LABEL_CHARS)
        return fits

    def _take_labels(self) -> None:
        attributes = self._spans.attributes
        which = np.flatnonzero(_IS_LABEL[self._slot] & self._fits)
        cut = otlp_places.cut(self._spans.buffer, attributes.text_at[which], attributes.end[which])
        self._label[which] = np.fromiter(map(self._labels.__getitem__, cut), np.int64, len(cut))

    def _take_numbers(self) -> None:
        attributes, data = self._spans.attributes, self._spans.data
        which = np.flatnonzero(_IS_NUMBER[self._slot] & self._fits)
        whole = attributes.form[which] == INT
        ints = otlp_places.varints_at(data, attributes.text_at[which[whole]], 10)[0].view(np.int64)
        floats = otlp_places.numbers_at(data, attributes.text_at[which[~whole]]).view(np.float64)
        for places, values in ((which[whole], ints.tolist()), (which[~whole], floats.tolist())):
            for place, slot, value in zip(places.tolist(), self._slot[places].tolist(), values, strict=True):
                number = _NUMBER_READERS[slot](value)
                if number is None:
                    self._fits[place] = False
                else:
                    self._number[place] = number

    def said(self, environments: Sequence[str], around: Codes) -> Said:
        """What the plain spans say. ``environments`` are those of resources, ``around`` each span's."""
        rows = np.flatnonzero(self._spans.is_plain)
        spans, attributes, kept = self._only(rows)
        key, slot, rank = self._key[kept], self._slot[kept], self._rank[kept]
        label, number = np.append(self._label[kept], 0), np.append(self._number[kept], 0)
        labels, count = self._labels, len(rows)
        kind_of_label = np.array([self._kind_of(text) for text in list(labels)], np.int64)
        slot[(slot == _KIND) & (kind_of_label[label[:-1]] == 0)] = _OTHER
        chosen = _choose(slot, rank, attributes.span, count)
        in_slot = np.flatnonzero(slot < _OTHER)
        is_left = (slot == _OTHER) | (slot == _KIND)
        is_left[in_slot] = _IS_KEPT[slot[in_slot]] | (chosen[slot[in_slot], attributes.span[in_slot]] != in_slot)

        tool, model, request_model, provider, environment, error_type = (
            label[chosen[slot]] for slot in (_TOOL, _MODEL, _REQUEST_MODEL, _PROVIDER, _ENVIRONMENT, _ERROR_TYPE)
        )
        guessed = np.where(
            tool > 0, labels[_TOOL_KIND], np.where((model > 0) | (request_model > 0), labels[_LLM], labels[_CHAIN])
        )
        kind = np.where(chosen[_KIND] >= 0, kind_of_label[label[chosen[_KIND]]], guessed)
        is_tool, has_model = kind == labels[_TOOL_KIND], np.isin(kind, [labels[one] for one in _MODEL_KINDS])
        is_left[chosen[_TOOL][(tool > 0) & ~is_tool]] = True
        is_left[chosen[_MODEL][(model > 0) & ~has_model]] = True
        model = np.where(has_model, np.where(model > 0, model, request_model), 0)
        cut = otlp_places.cut(spans.buffer, spans.name_at, spans.name_end)
        name = np.fromiter(map(labels.__getitem__, cut), np.int64, count)
        is_named = is_tool & (tool > 0)
        is_renamed = is_named & (name != tool) & (name > 0)
        from_resource = np.array([labels[native.text(one)] for one in environments], np.int64)
        environment = np.where(environment > 0, environment, from_resource[around[rows]])
        status = np.where((error_type > 0) & (spans.status == _UNSET), _ERROR, spans.status)
        status_labels = np.array([labels[native.text(one)] for one in STATUSES], np.int64)
        tokens, cost, has_cost, source = self._usage(
            chosen[list(_USAGE)], number, kind, provider, model, spans.start_ns
        )
        return Said(
            spans=spans,
            attributes=attributes,
            keys=self._keys,
            key=key,
            is_left=is_left,
            labels=labels,
            name=np.where(is_named, tool, name),
            is_renamed=is_renamed,
            kind=kind,
            status=status_labels[np.where(status > _ERROR, _UNSET, status)],
            error_type=error_type,
            model=model,
            request_model=request_model,
            provider=provider,
            environment=environment,
            tokens=tokens,
            cost=cost,
            has_cost=has_cost,
            cost_source=source,
            time_to_first_token_ns=number[chosen[_FIRST_TOKEN]],
            texts={one: _cuts(spans, attributes, chosen[one]) for one in _TEXTS},
        )

    def _only(self, rows: Codes) -> tuple[Spans, Attributes, Codes]:
        """The plain spans, and which of all attributes are theirs."""
        spans = self._spans
        kept = np.flatnonzero(spans.is_plain[spans.attributes.span])
        numbered = np.cumsum(spans.is_plain) - 1
        span, key_at, key_end, form, text_at, end = spans.attributes
        attributes = Attributes(numbered[span[kept]], key_at[kept], key_end[kept], form[kept], text_at[kept], end[kept])
        columns: dict[str, Any] = {field: getattr(spans, field)[rows] for field in _BY_SPAN}
        return spans._replace(attributes=attributes, **columns), attributes, kept

    def _kind_of(self, text: bytes) -> int:
        kind = read_kind(native.read_text(text))
        return 0 if kind is None else self._labels[native.text(kind)]

    def _usage(
        self, chosen: Codes, number: Codes, kind: Codes, provider: Codes, model: Codes, start_ns: Any
    ) -> tuple[Codes, Codes, npt.NDArray[np.bool_], Codes]:
        """Tokens, cost and its source, settled span by span where anything of them is said."""
        count = chosen.shape[1]
        which = np.flatnonzero((chosen >= 0).any(axis=0))
        texts = [native.read_text(text) for text in self._labels]
        numbers = number.tolist()
        prices = self._batch.prices
        settled = [
            settle(prices, texts[a], texts[b], texts[c], start, [None if at < 0 else numbers[at] for at in said])
            for said, a, b, c, start in zip(
                chosen[:, which].T.tolist(),
                kind[which].tolist(), provider[which].tolist(), model[which].tolist(), start_ns[which].tolist(),
                strict=True,
            )
        ]  # fmt: skip
        tokens, cost = np.zeros((6, count), np.int64), np.zeros(count, np.int64)
        has_cost, source = np.zeros(count, np.bool_), np.zeros(count, np.int64)
        if settled:
            *six, costs, sources = zip(*settled, strict=True)
            tokens[:, which] = six
            has_cost[which] = [one is not None for one in costs]
            cost[which] = [one or 0 for one in costs]
            source[which] = [self._labels[native.text(one)] for one in sources]
        return tokens, cost, has_cost, source


def _choose(slot: Codes, rank: Codes, span: Places, spans: int) -> Codes:
    """By slot and span: the attribute of the best rank, and of those the first."""
    chosen = np.full((len(Slot), spans), -1, np.int64)
    for one in np.flatnonzero(np.bincount(slot, minlength=len(Slot))[: len(Slot)]):
        which = np.flatnonzero(slot == one)[::-1]
        ranks = rank[which]
        if ranks.min() != ranks.max():
            which = which[np.argsort(-ranks, kind="stable")]
        chosen[one, span[which]] = which  # of several for one place the last one stays
    return chosen


def _cuts(spans: Spans, attributes: Attributes, chosen: Codes) -> Cuts:
    """Where the texts lie that fill a slot; elsewhere, an empty one."""
    empty = len(spans.buffer) - otlp_places.PADDING
    at, end = np.append(attributes.text_at, empty), np.append(attributes.end, empty + 1)
    return at[chosen], end[chosen]
