"""``farthing check`` asks the APIs of fleets, and says what they have and what is missing."""

import json

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.collectors.fleet.stored import Replica, recorded, stored
from tests.service.running import served

from farthing.cli.check import run_check
from farthing.domain.clock import SECOND
from farthing.settings import Settings


class Api:
    """A Prometheus that has some engines of the recording; ``status`` is what it answers with."""

    def __init__(self, *engines, failed=range(0)):
        self.status = 200
        now_ns = recorded()[20].true_ns
        replica = Replica(failed=failed)
        self.series = [
            one for name, labels in engines for one in stored([replica], now_ns, instance=name, labels=labels)
        ]
        self.app = Starlette(routes=[Route("/api/v1/query", self._query, methods=["POST"])])

    async def _query(self, request):
        result = [
            {"metric": dict(one.labels), "values": [[at / SECOND, repr(value)] for at, value in one.points.items()]}
            for one in self.series
        ]
        answer = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        return JSONResponse(answer, status_code=self.status)


@pytest.fixture
def check(tmp_path, capsys):
    """The exit status and the findings about a fleet."""

    def run(url, **entry):
        fleet = {"name": "eu", "url": url, "lookback_seconds": 60, **entry}
        settings = Settings.model_validate({"ledger": f"sqlite:///{tmp_path}/ledger.db", "fleet": [fleet]})
        status = run_check(settings, "json")
        found = json.loads(capsys.readouterr().out)
        assert not [one for one in found if one["subject"] == "engines"]
        return status, [(one["level"], one["detail"]) for one in found if one["subject"] == "fleet eu"]

    return run


def test_a_fleet_is_told_by_its_engines_and_models(check):
    """How many there are, and that cost is only estimated; nothing of it is replayed instead."""
    with served(Api(("a", {"gpu": "H100-SXM"}), ("b", {"gpu": "H100-SXM"})).app) as url:
        status, found = check(url)
    assert status == 0
    assert found == [("ok", f"{url}/: engines: 2, of models: m; cost is estimated per model")]


def test_engines_without_a_gpu_are_named(check):
    """Their cost would be unknown; what mends it is said."""
    with served(Api(("a", {}), ("b", {"gpu": "H100-SXM"})).app) as url:
        _, found = check(url)
        _, mended = check(url, gpus=[{"engine": "a", "gpu": "L4"}])
    assert found[1] == (
        "degraded",
        "engines without a GPU to price: a; enter fleet[].gpus, or give their series the label gpu",
    )
    assert len(mended) == 1


def test_an_api_without_engines_says_which_match_found_none(check):
    """Another job's name, most likely."""
    with served(Api().app) as url:
        status, found = check(url, match='job="other"')
    assert status == 0
    ((level, detail),) = found
    assert level == "degraded"
    assert 'with job="other"; check fleet[].match' in detail


def test_engines_whose_scrapes_fail_are_named(check):
    """Prometheus is there and the engines are not."""
    with served(Api(("a", {"gpu": "L4"}), failed=range(15, 30)).app) as url:
        _, found = check(url)
    assert found[1][0] == "degraded"
    assert found[1][1].startswith("not scraped now: a; the first: a at http://")


def test_an_api_that_cannot_be_asked_is_a_failure(check):
    """With the exit status of what it is."""
    api = Api()
    api.status = 401
    with served(api.app) as url:
        status, found = check(url)
    assert status == 5
    assert found == [
        (
            "failed",
            f"{url}/api/v1/query answered HTTP 401: it wants other credentials; check token_file, or username and "
            "password_file",
        )
    ]
