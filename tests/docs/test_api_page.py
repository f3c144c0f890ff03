"""The page of the HTTP API has every route with its scope, and every parameter of a report."""

import re

import pytest
from starlette.routing import Route
from tests.docs.pages import ROOT, rows, sections

from farthing.ledger.repository import Ledger
from farthing.service.access_rules import PUBLIC, needed_scope
from farthing.service.report_api import OUTPUTS, OWN_FORMS, REPORT_PARAMETERS, STATEMENTS_PARAMETERS
from farthing.service.reports import GROUPS
from farthing.service.server import Service
from farthing.settings import Settings

PAGE = sections((ROOT / "docs" / "api.md").read_text())


def code(text):
    """Everything between single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


@pytest.fixture(scope="module")
def routes(tmp_path_factory):
    """(method, path) -> scope of every route of the service."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('api')}/ledger.db")
    found = {}
    for route in Service(Settings(), ledger).app.routes:
        assert isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}:
            found[f"{method} {route.path.replace(':path', '')}"] = needed_scope(route.name)
    ledger.close()
    return found


def test_every_route_is_in_the_table_with_its_scope_and_no_other(routes):
    """A route that is not told of, or with another scope, is one that nobody can judge."""
    told = {code(row[0])[0]: row[1].strip("`") for row in rows(PAGE["Endpoints"])[1:]}
    assert told == {path: "none" if scope is PUBLIC else str(scope) for path, scope in routes.items()}


def test_every_parameter_and_value_of_a_report_is_in_the_table():
    """As the code knows them."""
    table = {name: row for row in rows(PAGE["Reports"])[1:] for name in code(row[0])}
    assert set(table) == set(REPORT_PARAMETERS)
    assert tuple(code(table["by"][1])) == GROUPS
    assert set(code(table["output"][1])) == set(OUTPUTS)
    assert {table[name][2].strip("`") for name in ("since", "by", "output")} == {"24h", "tenant", "json"}


def test_the_parameters_and_forms_of_statements_are_told():
    """Those of the list, and what a tenant's token gets."""
    text = PAGE["Statements"]
    assert set(STATEMENTS_PARAMETERS) <= set(code(text))
    assert OWN_FORMS == ("csv",)
    assert "`csv`, its lines, for the tenant" in text
