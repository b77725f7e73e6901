"""Tokens and cost of a span, from the numbers that its client sent."""

from tracebility.wire.conventions import MAX_COST_NANODOLLARS, MAX_TOKENS, MODEL_KINDS
from tracebility.wire.pricing import PriceTable, settle_tokens

REPORTED = "reported"
PRICED = "priced"

_NOTHING_SAID: list[int | None] = [None] * 9
_NOTHING = (0, 0, 0, 0, 0, 0, None, "")


def settle(
    prices: PriceTable, kind: str, provider: str | None, model: str | None, at_ns: int, said: list[int | None]
) -> tuple[int, int, int, int, int, int, int | None, str]:
    """Input, output, total, cache read, cache write and reasoning tokens, cost in nanodollars, and the cost's source.

    ``said`` holds the client's numbers: those six, the whole cost, the input's cost and the output's cost. A cost that
    the client sent is kept. Otherwise a call of a model is priced; spans that wrap such calls repeat their usage and
    are not priced.
    """
    if said == _NOTHING_SAID:
        return _NOTHING
    given_input, given_output, given_total, given_read, given_write, reasoning, cost, input_cost, output_cost = said
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
