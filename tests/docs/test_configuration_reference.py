"""docs/configuration.md has every key of farthing.yaml with its type, its default and its meaning."""

from typing import Any

import pytest
from pydantic import BaseModel
from tests.docs.pages import ROOT, rows, sections

from farthing.books.prices import DEFAULT_PRICES
from farthing.cli.settings_reference import MEANINGS, configuration_reference, settings_list
from farthing.domain.errors import ConfigError
from farthing.settings import Settings, parse_settings

PAGE = (ROOT / "docs" / "configuration.md").read_text()
LISTED = settings_list()
TABLE = {row[0].strip("`"): row[1:] for row in rows(PAGE) if row[0].startswith("`")}


def leaves(schema, definitions, prefix=""):
    """Every key of a JSON schema that holds a value, dotted; [] stands for the entries of a list."""
    for key, entry in schema["properties"].items():
        found = entry.get("items", entry)
        options = [found, *found.get("anyOf", ())]
        reference = next((option["$ref"] for option in options if "$ref" in option), None)
        if reference is None:
            yield prefix + key
        else:
            many = "[]" if "items" in entry else ""
            yield from leaves(definitions[reference.rsplit("/", 1)[1]], definitions, f"{prefix}{key}{many}.")


def test_the_committed_page_is_what_the_settings_say():
    """`farthing generate` writes it."""
    assert configuration_reference() == PAGE


def test_every_key_that_the_schema_has_is_in_the_page():
    """The schema is pydantic's own: a second way to the same keys."""
    schema = Settings.model_json_schema()
    keys = set(leaves(schema, schema["$defs"]))
    assert keys <= set(TABLE)
    assert {setting.key for setting in LISTED} - keys == {
        "engines",
        "fleet",
        "prices",
        "capacity",
        "capacity[].owned",
        "exchange",
        "budgets",
        "slos",
        "gpus.exporters",
        *(
            key
            for key in TABLE
            if key.startswith(("notify.", "autoscale.", "discovery.", "fleet[].", "traces."))
            and TABLE[key][0] in {"list", "section"}
        ),
    }


@pytest.mark.parametrize("setting", LISTED, ids=lambda setting: setting.key)
def test_every_setting_has_a_type_and_a_meaning(setting):
    """Put a docstring below a new field in settings.py, then run `farthing generate`."""
    assert setting.type
    assert setting.meaning.endswith((".", "below.")), setting.key


def test_a_meaning_told_here_is_not_told_by_the_model_as_well():
    """A docstring in settings.py replaces the entry, which then has to go."""
    told = {setting.key: setting.meaning for setting in LISTED}
    assert {key: told.get(key) for key in MEANINGS} == MEANINGS


def test_limits_and_defaults_are_told():
    """One of each kind."""
    assert TABLE["serve.port"][:2] == ["integer, 1 to 65535", "`9464`"]
    assert TABLE["costing.scrape_seconds"][:2] == ["number, more than 0", "`2.0`"]
    assert TABLE["costing.horizon_windows"][0] == "integer, at least 12"
    assert TABLE["engines[].probe"][:2] == ["`true` or `false`", "`false`"]
    assert TABLE["engines[].kind"][0] == "`vllm`"
    assert TABLE["serve.token_file"][:2] == ["path", "none"]
    assert TABLE["prices[].from"][:2] == ["date or UTC time", "required"]
    assert TABLE["capacity[].owned.pue"][:2] == ["number, at least 1", "`1`"]
    assert TABLE["currency"][0] == "text, matching `^[A-Z]{3}$`"


def test_defaults_are_those_of_an_empty_file():
    """For every key that an empty file gives a plain value."""
    empty = parse_settings("", "empty")
    for setting in LISTED:
        value: Any = empty
        for part in setting.key.split("."):
            value = getattr(value, part, None) if isinstance(value, BaseModel) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert setting.default == f"`{value}`", setting.key


def test_every_default_price_is_listed_with_its_source():
    """Nobody has to guess what their GPU was billed at."""
    for price in DEFAULT_PRICES:
        dollars, start, source = TABLE[price.gpu]
        assert round(float(dollars.strip("$")) * 1e9) == price.nano_per_hour
        assert (start, source) == (price.start.isoformat(), price.source)


def test_the_error_that_the_page_shows_is_the_one_that_a_mistake_gives():
    """With file, line and key."""
    with pytest.raises(ConfigError) as caught:
        parse_settings("engines:\n  - name: llama-8b\n    url: nope\n", "farthing.yaml")
    assert f"    {caught.value}\n" in PAGE


def test_each_section_of_the_settings_has_a_section_in_the_page():
    """In the order of the file."""
    values = {"currency", "ledger", "slo_defaults"}
    expected = [name for name in Settings.model_fields if name not in values]
    assert list(sections(PAGE)) == ["Environment", "Top level", *expected]
