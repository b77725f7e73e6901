"""Prices are those of genai-prices, to the nanodollar."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import pytest
from genai_prices import Usage, calc_price, data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from tracebility.wire.pricing import PriceTable, settle_tokens

NOON_NS = 1_795_521_600 * 10**9

EVERY_MODEL = [
    (provider.id, model.id) for provider in data_snapshot.get_snapshot().providers for model in provider.models
]


class Tokens(NamedTuple):
    input: int
    cache_read: int
    cache_write: int
    output: int


def price(provider: str, model: str, tokens: Tokens, at_ns: int = NOON_NS) -> Decimal | None:
    """In nanodollars, as the package has it; None when it does not sell the model's tokens."""
    usage = Usage(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
    )
    moment = datetime.fromtimestamp(at_ns / 1e9, UTC)
    try:
        found = calc_price(usage, model, provider_id=provider, genai_request_timestamp=moment)
    except LookupError:
        return None
    return found.total_price * 10**9


@given(
    st.sampled_from(EVERY_MODEL),
    st.integers(0, 1_000_000),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.integers(0, 100_000),
    st.integers(0, 86_400),
)
def test_every_model_costs_what_the_price_table_says(
    model: tuple[str, str], given_input: int, read_share: float, write_share: float, output: int, second: int
) -> None:
    tokens = Tokens(given_input, int(given_input * read_share), int(given_input * write_share), output)
    at_ns = NOON_NS + second * 10**9
    expected = price(*model, tokens, at_ns)
    cost = PriceTable().cost(*model, *tokens, at_ns)
    if expected is not None and cost is not None:
        assert abs(cost - expected) <= 1
    elif expected is not None:
        assert expected == 0  # not sold by the token


@pytest.mark.parametrize("provider", ["openai", "azure.ai.openai", "langchain", ""])
def test_a_model_is_priced_whoever_calls_it(provider: str) -> None:
    assert PriceTable().cost(provider, "gpt-4o", 1000, 0, 0, 100, NOON_NS) == 3_500_000


def test_cached_tokens_are_priced_apart_from_the_rest_of_the_input() -> None:
    table = PriceTable()
    whole = table.cost("openai", "gpt-4o", 1000, 0, 0, 0, NOON_NS)
    assert table.cost("openai", "gpt-4o", 1000, 1000, 0, 0, NOON_NS) == whole // 2


def test_an_unknown_model_has_no_price() -> None:
    table = PriceTable()
    assert table.cost("openai", "no-such-model-anywhere", 10, 0, 0, 10, NOON_NS) is None
    assert table.cost("openai", "no-such-model-anywhere", 10, 0, 0, 10, NOON_NS) is None


@pytest.mark.parametrize(
    ("sent", "read", "write", "settled"), [(100, 40, 10, 100), (100, 60, 50, 210), (0, 5, 0, 5), (50, 50, 0, 50)]
)
def test_an_input_count_that_leaves_cached_tokens_out_gets_them_added(
    sent: int, read: int, write: int, settled: int
) -> None:
    assert settle_tokens(sent, read, write) == settled


def test_names_longer_than_any_model_s_are_not_remembered() -> None:
    prices = PriceTable()
    assert prices.cost("openai", "x" * 201, 10, 0, 0, 0, 0) is None
    assert prices.cost("x" * 201, "gpt-4o", 10, 0, 0, 0, 0) is not None
    assert all(len(provider) + len(model) < 200 for provider, model in prices._rates)
