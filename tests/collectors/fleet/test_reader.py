"""A poll gives every engine's news, the same as scraping the engine would have given."""

import asyncio
from collections import Counter

import httpx
import pytest
from tests.collectors.fleet.stored import VLLM, Replica, recorded, stored

from farthing.collectors.engines.catalogue import scraped_metrics
from farthing.collectors.engines.scrape import EngineScraper
from farthing.collectors.fleet.api import Series
from farthing.collectors.fleet.reader import FleetReader
from farthing.collectors.fleet.targets import Target, by_target, engine_name, packed, selector
from farthing.domain.clock import SECOND
from farthing.domain.errors import EngineUnreachableError
from farthing.domain.records import Counters as Counted
from farthing.replay.recording import load_recording
from farthing.settings_fleet import FleetSettings

BEGIN = recorded()[0].true_ns


class Stored:
    """Answers as a Prometheus does that has scraped some engines of the recording."""

    url = "http://prometheus:9090/api/v1/query"

    def __init__(self, *engines):
        self.engines = engines
        """Functions of a moment that give series."""
        self.now_ns = BEGIN
        self.asked = []

    async def query(self, promql):
        self.asked.append(promql)
        series = [one for engine in self.engines for one in engine(self.now_ns)]
        if promql.startswith("count"):
            counts = Counter(one.labels["__name__"] for one in series)
            return [Series({"__name__": name}, {self.now_ns: float(count)}) for name, count in counts.items()]
        names = promql.partition('"')[2].partition('"')[0].split("|")
        return [one for one in series if one.labels["__name__"] in names]

    def poll(self, reader, polls, every_seconds=4):
        """The outcomes of some polls."""

        async def run():
            outcomes = []
            for _ in range(polls):
                outcomes += await reader.poll()
                self.now_ns += every_seconds * SECOND
            return outcomes

        return asyncio.run(run())


ALONE = (Replica(),)


def engine(instance, replicas=ALONE, labels=None):
    return lambda now_ns: stored(replicas, now_ns, instance=instance, labels=labels)


def reader_of(prometheus, *, resume=lambda _: None, claim=lambda _: True, **settings):
    entry = FleetSettings.model_validate(
        {"name": "f", "url": "http://prometheus:9090", "interval_seconds": 4, **settings}
    )
    return FleetReader(entry, prometheus, VLLM, clock_ns=lambda: prometheus.now_ns - BEGIN, resume=resume, claim=claim)


def test_a_fleet_is_read_as_the_engine_itself_is_scraped():
    """Records of one and the other differ by nothing but the version, which no Prometheus knows."""
    scrapes = [scrape for scrape in load_recording("h100-llama8b-vllm0.26").scrapes if scrape.body][:30]
    bodies = iter(scrape.body for scrape in scrapes)
    times = iter(scrape.true_ns for scrape in recorded())

    def answer(request):
        if request.url.path == "/version":
            return httpx.Response(404)
        return httpx.Response(200, text=next(bodies))

    async def scraped():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            scraper = EngineScraper("e", "http://e", VLLM, client, lambda: next(clock), gpu="H100-SXM", gpu_count=2)
            return [await scraper.scrape() for _ in scrapes]

    moments = [next(times) for _ in scrapes]
    # the start of a boot asks the clock twice, for the version
    clock = iter([moments[0], *moments])
    direct = asyncio.run(scraped())
    prometheus = Stored(engine("e", labels={"gpu": "H100-SXM", "gpu_count": "2"}))
    read = prometheus.poll(reader_of(prometheus), 20)[: len(direct)]
    assert [outcome.counters for outcome in read] == [outcome.counters for outcome in direct]
    assert read[0].started == direct[0].started
    assert [outcome.gauges for outcome in read] == [outcome.gauges for outcome in direct]
    assert not any(outcome.error for outcome in read)


def test_clusters_keep_engines_of_one_name_apart():
    """Two clusters have a pod of the same address; labels say which is which, and what each runs on."""
    prometheus = Stored(
        engine("vllm-0:8000", labels={"cluster": "eu", "gpu": "H100-SXM"}),
        engine("vllm-0:8000", labels={"cluster": "us"}),
    )
    gpus = [{"engine": "us:*", "gpu": "A100-80GB", "gpu_count": 4}]
    outcomes = prometheus.poll(reader_of(prometheus, cluster_label="cluster", gpus=gpus), 2)
    started = [outcome.started for outcome in outcomes if outcome.started]
    assert [(one.engine, one.gpu, one.gpu_count) for one in started] == [
        ("eu:vllm-0:8000", "H100-SXM", 1),
        ("us:vllm-0:8000", "A100-80GB", 4),
    ]


def test_an_engine_whose_gpu_nobody_tells_has_none():
    """It is unpriced, never free; a count that is none is 1."""
    prometheus = Stored(engine("e", labels={"gpu_count": "many"}))
    (outcome, *_) = prometheus.poll(reader_of(prometheus, gpus=[{"model": "other-*", "gpu": "H100-SXM"}]), 2)
    assert (outcome.started.gpu, outcome.started.gpu_count) == ("", 1)


def test_many_series_are_asked_for_in_several_questions_with_the_same_result():
    """No question is larger than it may be; together they name every metric once."""
    names = [f"engine-{number}" for number in range(9)]
    one, several = Stored(*map(engine, names)), Stored(*map(engine, names))
    expected = one.poll(reader_of(one), 10)
    outcomes = several.poll(reader_of(several, max_series=100), 10)
    assert [outcome.records for outcome in outcomes] == [outcome.records for outcome in expected]
    assert len({query for query in one.asked if query.startswith("{")}) == 1
    assert len({query for query in several.asked if query.startswith("{")}) > 1


def test_metrics_are_packed_in_their_order():
    """A metric that has more than fits by itself is asked for alone."""
    counts = {"a": 60, "b": 40, "c": 500, "d": 1}
    assert packed(["a", "b", "c", "d", "e"], counts, 100) == [("a", "b"), ("c",), ("d", "e")]


def test_only_what_the_catalogue_reads_is_asked_for():
    """Buckets are the most of an engine's series, and costing has no use for them."""
    metrics = scraped_metrics(VLLM)
    assert "vllm:generation_tokens_total" in metrics
    assert "process_start_time_seconds" in metrics
    assert not [name for name in metrics if name.endswith("_bucket")]
    assert selector(["a", "b:c"], 'job="x"', 60) == '{__name__=~"a|b:c",job="x"}[60s]'


def test_a_target_that_is_no_engine_is_passed_over():
    """A job may scrape other things; they have a process, and no tokens."""

    def other(now_ns):
        labels = {"instance": "gateway", "job": "llm-engines"}
        return [Series({"__name__": "process_start_time_seconds", **labels}, {now_ns: 1.7e9})]

    prometheus = Stored(other, engine("e"))
    assert {outcome.engine for outcome in prometheus.poll(reader_of(prometheus), 3)} == {"e"}


def test_an_engine_that_somebody_else_reads_is_left_to_them():
    """At once, also when it was read until now: its probe has begun to report."""
    taken = {"f"}
    prometheus = Stored(engine("e"), engine("f"))
    reader = reader_of(prometheus, claim=lambda target: target.instance not in taken)
    assert {outcome.engine for outcome in prometheus.poll(reader, 3)} == {"e"}
    taken.add("e")
    assert prometheus.poll(reader, 3) == []
    assert reader.engines == ()


def test_an_engine_that_is_gone_is_forgotten_and_goes_on_when_it_is_back():
    """Pods come and go; what comes back goes on with its boot and its sequence."""
    last: dict[str, Counted] = {}
    prometheus = Stored(engine("e", (Replica(down=range(20, 70)),)))
    reader = reader_of(prometheus, resume=last.get)
    before = prometheus.poll(reader, 29)
    assert reader.gone() == ["e"]
    assert reader.gone() == []
    last["e"] = before[-1].counters
    after = prometheus.poll(reader, 10)
    assert after[0].started is None
    assert after[0].counters.key.sequence == before[-1].counters.key.sequence + 1
    assert after[0].counters.key.boot == before[-1].counters.key.boot


def test_a_process_that_started_anew_is_a_new_boot():
    """By the engine's own start, as when it is scraped."""

    def restarted(now_ns):
        changed = []
        for one in stored([Replica()], now_ns, instance="e"):
            name = one.labels["__name__"]
            later = {at: value for at, value in one.points.items() if at >= recorded()[20].true_ns}
            if name == "process_start_time_seconds":
                later = {at: value + 3600 for at, value in later.items()}
            elif name.endswith("_total"):
                later = {at: value // 7 for at, value in later.items()}
            changed.append(Series(one.labels, {**one.points, **later}))
        return changed

    prometheus = Stored(restarted)
    outcomes = prometheus.poll(reader_of(prometheus), 20)
    assert [outcome.counters.key.sequence for outcome in outcomes if outcome.started] == [1, 1]
    assert len({outcome.counters.key.boot for outcome in outcomes}) == 2


def test_a_failed_scrape_is_told_of_the_engine():
    """The engine is away, not the Prometheus; it is named."""
    prometheus = Stored(engine("e", (Replica(failed=range(5, 200)),)))
    outcomes = prometheus.poll(reader_of(prometheus), 10)
    assert isinstance(outcomes[-1].error, EngineUnreachableError)
    assert "e at http://prometheus:9090" in str(outcomes[-1].error)
    assert outcomes[-1].gauges.scrape_up is False


@pytest.mark.parametrize(
    ("cluster", "instance", "name"),
    [
        ("", "vllm-0:8000", "vllm-0:8000"),
        ("eu", "vllm-0:8000", "eu:vllm-0:8000"),
        ("", "[fd00::1]:8000", "fd00::1:8000"),
    ],
)
def test_an_engine_is_called_by_its_cluster_and_instance(cluster, instance, name):
    """As a discovered engine is called by its address."""
    assert engine_name(cluster, instance) == name


def test_names_that_no_engine_may_have_stay_apart():
    """What is replaced or cut is told apart by a hash."""
    names = [engine_name("", one) for one in ("a/b", "a b", "a-b", "x" * 80, "x" * 81)]
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 64


def test_series_without_an_instance_are_of_nobody():
    """A rule may have taken it away."""
    series = [Series({"__name__": "up"}, {1: 1.0}), Series({"__name__": "up", "instance": "e", "replica": "a"}, {})]
    assert by_target(series, replica_label="replica") == {Target("", "e"): {"a": [series[1]]}}
