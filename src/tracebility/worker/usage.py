"""Computes tokens and cost of a span from the numbers that its client sent."""

from tracebility.wire.conventions import MAX_COST_NANODOLLARS, MAX_TOKENS, MODEL_KINDS
from tracebility.wire.pricing import PriceTable, settle_tokens

REPORTED = "reported"
PRICED = "priced"

_NOTHING_SENT: list[int | None] = [None] * 9
_NO_USAGE = (0, 0, 0, 0, 0, 0, None, "")


def settle(
    prices: PriceTable, kind: str, provider: str | None, model: str | None, at_ns: int, sent: list[int | None]
) -> tuple[int, int, int, int, int, int, int | None, str]:
    """Input, output, total, cache read, cache write and reasoning tokens, cost in nanodollars, and the cost's source.

    ``sent`` holds the client's numbers: those six, then total, input and output cost. A cost from the client is kept.
    Otherwise model calls are priced; other spans, which repeat the usage of the calls below them, are not.
    """
    if sent == _NOTHING_SENT:
        return _NO_USAGE
    given_input, given_output, given_total, given_read, given_write, reasoning, cost, input_cost, output_cost = sent
    read, write, output = given_read or 0, given_write or 0, given_output or 0
    whole = given_input or 0
    if read or write:
        whole = min(settle_tokens(whole, read, write), MAX_TOKENS)
    total = whole + output
    if given_total is not None and given_total > total:
        total = given_total
    if cost is None and (input_cost is not None or output_cost is not None):
        cost = min((input_cost or 0) + (output_cost or 0), MAX_COST_NANODOLLARS)
    source = "" if cost is None else REPORTED
    if cost is None and model and (whole or output) and kind in MODEL_KINDS:
        cost = prices.cost(provider or "", model, whole, read, write, output, at_ns)
        if cost is not None:
            cost, source = min(cost, MAX_COST_NANODOLLARS), PRICED
    return whole, output, total, read, write, reasoning or 0, cost, source
