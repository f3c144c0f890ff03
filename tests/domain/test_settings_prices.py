"""What farthing.yaml says of prices: dates and times, kinds, capacity, currencies, and mistakes named by line."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
import yaml

from farthing.domain.errors import ConfigError
from farthing.settings import Settings, parse_settings

NODE = "name: n, gpu: X, gpus: 8, from: 2026-01-01"


def test_a_price_of_the_first_release_is_still_one():
    """Without anything that came later."""
    (price,) = parse_settings("prices:\n- {gpu: X, usd_per_hour: 2.5, from: 2026-01-01, source: s}\n", "f").prices
    assert (price.gpu, price.usd_per_hour, price.source) == ("X", Decimal("2.5"), "s")
    assert price.start == datetime(2026, 1, 1, tzinfo=UTC)
    assert (price.end, price.kind, price.name, price.currency) == (None, "on_demand", "", "")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
        ("2026-10-01T13:00:00Z", datetime(2026, 10, 1, 13, tzinfo=UTC)),
        ("2026-10-01 13:00:00", datetime(2026, 10, 1, 13, tzinfo=UTC)),
        ("2026-10-01T13:00:00+02:00", datetime(2026, 10, 1, 11, tzinfo=UTC)),
        ('"2026-10-01"', datetime(2026, 10, 1, tzinfo=UTC)),
        ('"2026-10-01T13:00:00Z"', datetime(2026, 10, 1, 13, tzinfo=UTC)),
    ],
)
def test_dates_are_midnights_and_times_are_utc(text, moment):
    """As YAML reads them, quoted or not."""
    (rate,) = parse_settings(f"exchange:\n- {{currency: EUR, rate: 1.08, from: {text}}}\n", "f").exchange
    assert rate.start == moment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prices:\n- {gpu: X, usd_per_hour: 1, from: soon}", "f.yaml:2: prices.0.from: enter a date (2026-11-01) or"),
        ("prices:\n- {gpu: X, usd_per_hour: 1, from: 2026}", "f.yaml:2: prices.0.from: enter a date (2026-11-01) or"),
        (
            "prices:\n- {gpu: X, usd_per_hour: 1, from: 2026-02-01, to: 2026-02-01}",
            "f.yaml:2: prices.0: to: 2026-02-01T00:00:00Z is not after from: 2026-02-01T00:00:00Z",
        ),
        ("prices:\n- {gpu: X, usd_per_hour: 1, from: 2026-02-01, kind: free}", "f.yaml:2: prices.0.kind: "),
        ("prices:\n- {gpu: X, usd_per_hour: 1, from: 2026-02-01, currency: eur}", "f.yaml:2: prices.0.currency: "),
        ("exchange:\n- {currency: EUR, rate: 0, from: 2026-02-01}", "f.yaml:2: exchange.0.rate: "),
        ("exchange:\n- {currency: EUR, rate: 1.0000000001, from: 2026-02-01}", "f.yaml:2: exchange.0.rate: "),
        (
            "exchange:\n- {currency: EUR, rate: 1, from: 2026-02-01, to: 2026-03-01}",
            "unknown key; known here: currency",
        ),
        (f"capacity:\n- {{{NODE}}}", "capacity 'n' has no price; enter one of usd_per_hour, usd_per_gpu_hour, "),
        (
            f"capacity:\n- {{{NODE}, usd_per_hour: 1, usd_per_gpu_hour: 1}}",
            "capacity 'n' has usd_per_hour and usd_per_gpu_hour; enter one of",
        ),
        (
            f"capacity:\n- {{{NODE}, to: 2027-01-01, usd_per_gpu_hour: 1, usd_upfront: 1}}",
            "has usd_per_gpu_hour and usd_upfront; enter one of",
        ),
        (f"capacity:\n- {{{NODE}, usd_upfront: 1}}", "capacity 'n' is paid for a term; enter its end as to:"),
        (f"capacity:\n- {{{NODE}, kind: reserved, usd_per_hour: 1}}", "is paid for a term; enter its end as to:"),
        (f"capacity:\n- {{{NODE}, kind: committed, usd_per_hour: 1}}", "is paid for a term; enter its end as to:"),
        (f"capacity:\n- {{{NODE}, kind: owned, usd_per_hour: 1}}", "kind: owned and a section owned: belong together"),
        (
            f"capacity:\n- {{{NODE}, owned: {{capex_usd: 1, lifetime_months: 1}}}}",
            "kind: owned and a section owned: belong together",
        ),
        (
            f"capacity:\n- {{{NODE}, kind: owned, owned: {{capex_usd: 1}}}}",
            "enter owned.lifetime_months, or its end as",
        ),
        (
            f"capacity:\n- {{{NODE}, kind: owned, owned: {{capex_usd: 1, residual_usd: 2, lifetime_months: 1}}}}",
            "capacity.0.owned: residual_usd 2 is more than capex_usd 1",
        ),
        (
            f"capacity:\n- {{{NODE}, kind: owned, owned: {{capex_usd: 1, power_watts: 2, lifetime_months: 1}}}}",
            "power_watts and usd_per_kwh belong together",
        ),
        (
            f"capacity:\n- {{{NODE}, kind: owned, owned: {{capex_usd: 1, pue: 0.9, lifetime_months: 1}}}}",
            "f.yaml:2: capacity.0.owned.pue: ",
        ),
        (
            f"capacity:\n- {{{NODE}, kind: owned, owned: {{capex: 1}}}}",
            "f.yaml:2: capacity.0.owned.capex_usd: Field required",
        ),
        (f"capacity:\n- {{{NODE}, usd_per_hour: 1, host_share: 1.1}}", "f.yaml:2: capacity.0.host_share: "),
        (
            "engines:\n- {name: a, url: 'http://x', price: spot, capacity: n}",
            "f.yaml:2: engines.0: engine 'a' has a price and a capacity",
        ),
        (
            "engines:\n- {name: a, url: 'http://x', capacity: n}",
            "engine 'a': no capacity 'n'; add it (known: none)",
        ),
        (
            f"capacity:\n- {{{NODE}, usd_per_hour: 1}}\nengines:\n- {{name: a, url: 'http://x', gpu: Y, capacity: n}}",
            "engine 'a' has gpu 'Y' and its capacity 'n' 'X'; leave out the engine's",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_enter(text, message):
    """Before anything is billed."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "f.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_with_prices_of_every_kind_survive_their_own_yaml():
    """A stack hands them to its processes this way."""
    text = f"""
prices:
- {{gpu: X, usd_per_hour: 1.000000001, from: 2026-02-01T03:00:00Z, to: 2026-03-01, kind: spot, name: s, currency: EUR}}
capacity:
- {{{NODE}, usd_per_hour: 1, host_share: 0.123456789}}
- {{name: o, gpu: X, gpus: 1, kind: owned, from: 2026-01-01, owned: {{capex_usd: 1, lifetime_months: 36}}}}
- {{name: r, gpu: X, gpus: 1, kind: reserved, from: 2026-01-01, to: 2027-01-01, usd_upfront: 5, usd_per_hour: 1}}
exchange:
- {{currency: EUR, rate: 1.123456789, from: 2026-01-01}}
engines:
- {{name: a, url: "http://x", capacity: n, gpu_count: 2}}
- {{name: b, url: "http://y", gpu: X, price: s}}
"""
    settings = parse_settings(text, "f")
    dumped = yaml.safe_dump(settings.model_dump(mode="json", by_alias=True))
    assert Settings.model_validate(yaml.safe_load(dumped)) == settings
