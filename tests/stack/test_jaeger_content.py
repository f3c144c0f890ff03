"""What Jaeger deletes of spans: attributes by their names, as instrumentations write them, and events of others.

``fixtures/content-attributes.yaml`` has the names, with the published files that they were taken from.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.stack.compose_config import compose_configuration
from farthing.stack.jaeger_content import CONTENT_PATTERNS

FIXTURE: dict[str, dict[str, list[str]]] = yaml.safe_load(
    (Path(__file__).parent / "fixtures/content-attributes.yaml").read_text()
)
PROCESSORS: dict[str, Any] = yaml.safe_load(compose_configuration(Settings())[Path("jaeger/jaeger.yaml")])["processors"]
CONTENT = sorted({name for listed in FIXTURE["content"].values() for name in listed})
KEPT = sorted({name for listed in FIXTURE["kept"].values() for name in listed})
OWN = sorted(value for name, value in vars(names).items() if name.startswith(("ATTRIBUTE_", "RESOURCE_")))


def is_deleted(attribute: str) -> bool:
    """By the actions as they are configured: a pattern is looked for anywhere in the name (getMatchingKeys)."""
    actions = PROCESSORS["attributes/content"]["actions"]
    assert {action["action"] for action in actions} == {"delete"}
    return any(re.search(action["pattern"], attribute) for action in actions)


@pytest.mark.parametrize("attribute", CONTENT)
def test_an_attribute_that_may_hold_content_is_deleted(attribute):
    """Whoever wrote it."""
    assert is_deleted(attribute)


@pytest.mark.parametrize("attribute", sorted({*KEPT, *OWN}))
def test_an_attribute_that_holds_none_is_kept(attribute):
    """Counts, times, names of models, and all that Farthing itself says."""
    assert not is_deleted(attribute)


@pytest.mark.parametrize("pattern", CONTENT_PATTERNS)
def test_every_pattern_has_its_example_and_means_to_go_what_it_means_here(pattern):
    """Go's expressions have no look-around and no back-references; a $ would be a variable of the environment."""
    assert not re.search(r"\$|\(\?|\\[1-9]", pattern)
    assert any(re.search(pattern, name) for name in CONTENT)


def test_no_event_passes_but_the_edge_spans_own():
    """Two conditions, of which either drops; what cannot be judged is not let through."""
    found = PROCESSORS["filter/events"]
    assert found["error_mode"] == "propagate"
    of_others, by_name = found["traces"]["spanevent"]
    assert of_others == f'resource.attributes["service.name"] != "{names.SPAN_SERVICE}"'
    assert re.findall(r'name != "(\w+)"', by_name) == [names.SPAN_FIRST_TOKEN, names.SPAN_ABORTED]
    assert re.sub(r'name != "\w+"', "x", by_name) == "x and x"
