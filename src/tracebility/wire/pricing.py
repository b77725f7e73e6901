"""Prices model calls with the data of ``genai-prices``. Each model is looked up once, so a span takes a microsecond.

Amounts are integers: prices in femtodollars per token (a dollar per million tokens is 10**9 of them), costs in
nanodollars, the scale of the ``cost`` columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

FEMTO_PER_TOKEN = 10**9  # for a price of one dollar per million tokens
FEMTO_PER_REQUEST = 10**12  # for a price of one dollar per thousand requests
# Bound of the cache by provider and model, because clients choose the names.
_MAX_CACHED_MODELS = 4096
# Names of models and providers with a price are shorter.
_MAX_NAME_CHARS = 200

# OpenTelemetry's provider names that genai-prices does not know, or confuses with another provider.
_PROVIDERS = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
}


class _Rate(NamedTuple):
    """Prices of calls with more than ``threshold`` input tokens, in femtodollars."""

    threshold: int
    input: int
    cache_read: int
    cache_write: int
    output: int
    request: int


@dataclass(frozen=True, slots=True)
class _Dated:
    """A model whose price depends on the time of the call."""

    model: ModelInfo


def settle_tokens(given_input: int, cache_read: int, cache_write: int) -> int:
    """The number of input tokens, including cached ones.

    Anthropic's own usage does not include them. If there are more cached tokens than input tokens, add them.
    """
    cached = cache_read + cache_write
    return given_input + cached if cached > given_input else given_input


class PriceTable:
    """A cache of prices by provider and model."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, str], tuple[_Rate, ...] | _Dated] = {}
        self._rates_of_price: dict[int, tuple[_Rate, ...]] = {}

    def cost(
        self, provider: str, model: str, given: int, cache_read: int, cache_write: int, output: int, at_ns: int
    ) -> int | None:
        """The cost in nanodollars of a call at ``at_ns`` (Unix nanoseconds). None: the model has no known token price.

        ``given`` is the number of input tokens, including cache reads and writes.
        """
        if len(model) > _MAX_NAME_CHARS:
            return None
        if len(provider) > _MAX_NAME_CHARS:
            provider = ""
        rates = self._rates.get((provider, model))
        if rates is None:
            rates = self._look_up(provider, model)
        if isinstance(rates, _Dated):
            rates = self._rates_at(rates.model, at_ns)
        if not rates:
            return None
        rate = rates[0]
        if len(rates) > 1:
            rate = next(rate for rate in reversed(rates) if given > rate.threshold)
        _, input_price, read_price, write_price, output_price, femto = rate
        femto += output * output_price
        if cache_read or cache_write:
            femto += cache_read * read_price + cache_write * write_price
            given = max(given - cache_read - cache_write, 0)
        return (femto + given * input_price + 500_000) // 1_000_000

    def _look_up(self, provider: str, model: str) -> tuple[_Rate, ...] | _Dated:
        if len(self._rates) >= _MAX_CACHED_MODELS:
            self._rates.clear()
        found = _find(_PROVIDERS.get(provider, provider), model)
        rates: tuple[_Rate, ...] | _Dated
        if found is None:
            rates = ()
        elif isinstance(found.prices, ModelPrice):
            rates = _rates(found.prices)
        else:
            rates = _Dated(found)
        self._rates[provider, model] = rates
        return rates

    def _rates_at(self, model: ModelInfo, at_ns: int) -> tuple[_Rate, ...]:
        price = model.get_prices(datetime.fromtimestamp(at_ns / 1e9, UTC))
        # Prices are module data of genai-prices and are never freed, so an id is not reused.
        known = self._rates_of_price.get(id(price))
        if known is None:
            known = self._rates_of_price[id(price)] = _rates(price)
        return known


def _find(provider: str, model: str) -> ModelInfo | None:
    """Find a model by provider and name, else by name only: some frameworks send their own name as the provider."""
    snapshot = data_snapshot.get_snapshot()
    for provider_id in (provider, None) if provider else (None,):
        try:
            return snapshot.find_provider_model(model, None, provider_id, None)[1]
        except LookupError:
            continue
    return None


def _rates(price: ModelPrice) -> tuple[_Rate, ...]:
    """One rate for each tier, by ascending threshold; none when the model is not priced by token."""
    given, output = price.input_mtok, price.output_mtok
    if given is None and output is None:
        return ()
    read = given if price.cache_read_mtok is None else price.cache_read_mtok
    write = given if price.cache_write_mtok is None else price.cache_write_mtok
    units = (given, read, write, output)
    request = round(_at(price.requests_kcount, -1) * FEMTO_PER_REQUEST)
    rates = []
    for threshold in sorted({-1, *_thresholds(units)}):
        per_token = [round(_at(unit, threshold) * FEMTO_PER_TOKEN) for unit in units]
        rates.append(_Rate(threshold, per_token[0], per_token[1], per_token[2], per_token[3], request))
    return tuple(rates)


def _thresholds(units: Iterable[Decimal | TieredPrices | None]) -> Iterable[int]:
    for unit in units:
        if isinstance(unit, TieredPrices):
            yield from (tier.start for tier in unit.tiers)


def _at(unit: Decimal | TieredPrices | None, threshold: int) -> Decimal:
    """The price of ``unit`` for calls with more than ``threshold`` input tokens, up to the next threshold."""
    if unit is None:
        return Decimal(0)
    if isinstance(unit, Decimal):
        return unit
    passed: list[Decimal] = [tier.price for tier in unit.tiers if threshold >= tier.start]
    return passed[-1] if passed else unit.base
