"""The scraper turns what an engine answers into records of a boot, and every failure into an outcome."""

import asyncio
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from farthing.collectors.engines.boots import DOWN_AFTER_NS
from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.engines.clock import anchored_clock
from farthing.collectors.engines.scrape import EngineScraper, probe_engine
from farthing.costing.scraped import ScrapedCoster
from farthing.domain.clock import SECOND
from farthing.domain.conventions import SCRAPED_BOOT
from farthing.domain.errors import EngineUnreachableError, ExpositionError

VLM = (Path(__file__).parents[2] / "fixtures/vllm-0.32-cpu/metrics-vlm.txt").read_text()
URL = "http://engine:8000"
START = "process_start_time_seconds 1.79544480415e+09"


def exposition(prompt=2445, output=338, start=None, running=0.0, created="1.79544485e+09"):
    """The captured exposition with some numbers changed; ``start`` is the process's, or "" for none at all."""
    text = re.sub(r"(?m)^(vllm:prompt_tokens_total\{.*\}) .*", rf"\1 {prompt}", VLM)
    text = re.sub(r"(?m)^(vllm:generation_tokens_total\{.*\}) .*", rf"\1 {output}", text)
    text = re.sub(r"(?m)^(vllm:num_requests_running\{.*\}) .*", rf"\1 {running}", text)
    text = re.sub(r"(?m)^(vllm:generation_tokens_created\{.*\}) .*", rf"\1 {created}", text)
    if start is not None:
        text = text.replace(START, f"process_start_time_seconds {start}" if start else "")
    return text if start != "" else re.sub(r"(?m)^vllm:generation_tokens_created.*\n", "", text)


class Engine:
    """Answers scrapes with what it was given, in turn, and /version with a version."""

    def __init__(self, *answers):
        self.answers = deque(answers)
        self.now_ns = 1_000 * SECOND
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request):
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "0.32.0"})
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, text=answer)

    def scraper(self, **options):
        """A scraper of this engine on its clock."""
        return EngineScraper("e", URL, load_catalogue("vllm"), self.client, lambda: self.now_ns, **options)

    def scrape(self, scraper, every_ns=2 * SECOND):
        """One outcome per answer, ``every_ns`` apart."""

        async def all_of_them():
            outcomes = []
            while self.answers:
                outcomes.append(await scraper.scrape())
                self.now_ns += every_ns
            return outcomes

        return asyncio.run(all_of_them())


def scrape(*answers, **options):
    """Outcomes of a fresh scraper over these answers, two seconds apart."""
    engine = Engine(*answers)
    return engine.scrape(engine.scraper(**options))


def test_the_first_scrape_opens_the_boot_with_its_identity_and_version():
    """A boot is named by instance, model and process start; its clock is Farthing's UTC."""
    (outcome,) = scrape(exposition(), gpu="H100-SXM", gpu_count=2)
    started, counters = outcome.records
    assert outcome.error is None
    assert started.key.boot == counters.key.boot == "e/tiny/1795444804150000000"
    assert (started.key.sequence, counters.key.sequence) == (0, 1)
    assert (started.engine, started.kind, started.version, started.model) == ("e", "vllm", "0.32.0", "tiny")
    assert (started.gpu, started.gpu_count) == ("H100-SXM", 2)
    assert started.at_ns == counters.at_ns == started.anchor.to_wall(counters.at_ns) == 1_000 * SECOND
    assert counters.values["generation_tokens_total"] == 338
    assert outcome.gauges.running == 0
    assert outcome.gauges.generation_tokens_per_second is None


def test_later_scrapes_go_on_with_the_boot_without_gaps_in_its_sequence():
    """Rates are per second between two scrapes; failures leave no hole."""
    outcomes = scrape(exposition(), exposition(output=438, running=3.0), "nonsense", exposition(output=538))
    keys = [record.key for outcome in outcomes for record in outcome.records]
    assert [key.sequence for key in keys] == [0, 1, 2, 3]
    assert len({key.boot for key in keys}) == 1
    assert outcomes[1].gauges.generation_tokens_per_second == 50
    assert outcomes[1].gauges.prompt_tokens_per_second == 0
    assert outcomes[1].gauges.running == 3
    assert outcomes[3].gauges.generation_tokens_per_second == 25


def test_a_new_process_start_is_a_new_boot():
    """Its sequence starts over."""
    first, second = scrape(exposition(), exposition(start="1.795449e+09"))
    assert second.started.key.boot == "e/tiny/1795449000000000000"
    assert [record.key.sequence for record in second.records] == [0, 1]
    assert second.started.at_ns == first.counters.at_ns + 2 * SECOND
    assert second.gauges.generation_tokens_per_second is None


def test_a_counter_that_fell_without_a_new_start_is_a_new_boot():
    """Each reset gets its own boot, so that no difference is ever negative."""
    outcomes = scrape(exposition(), exposition(output=7), exposition(output=9), exposition(output=1))
    assert [outcome.counters.key.boot.rpartition("/")[2] for outcome in outcomes] == [
        "1795444804150000000",
        "1795444804150000000#1",
        "1795444804150000000#1",
        "1795444804150000000#2",
    ]


def test_an_engine_without_a_start_time_is_known_by_when_it_was_first_seen():
    """Several API servers export no process metrics; only a falling counter tells a restart then."""
    outcomes = scrape(exposition(start=""), exposition(start="", output=400), exposition(start="", output=2))
    boots = [outcome.counters.key.boot for outcome in outcomes]
    assert boots == [f"e/tiny/seen-{1_000 * SECOND}"] * 2 + [f"e/tiny/seen-{1_000 * SECOND}#1"]


def test_another_model_is_another_boot_even_without_a_start_time():
    """What is served tells two processes apart where nothing else does."""
    outcomes = scrape(exposition(start=""), exposition(start="", output=400).replace('"tiny"', '"other"'))
    assert outcomes[1].started.key.boot == f"e/other/seen-{1_002 * SECOND}"


def test_a_model_with_a_long_name_makes_no_boot_that_the_ledger_has_no_room_for():
    """Engines name a model by the path of its folder; PostgreSQL would refuse all records of such a boot."""
    path = "/mnt/models/" + "long-" * 40
    outcomes = scrape(*(exposition().replace('"tiny"', f'"{path}{number}"') for number in (1, 1, 2)))
    boots = [outcome.counters.key.boot for outcome in outcomes]
    assert boots[0] == boots[1] != boots[2]
    assert max(len(SCRAPED_BOOT + boot) for boot in boots) < 100
    assert outcomes[0].started.model == f"{path}1"


def test_two_engines_behind_one_address_are_told_from_a_restart():
    """A process that ended cannot answer again: the first switch is a restart, the way back an error."""
    one, other = exposition(), exposition(start="1.795449e+09")
    outcomes = scrape(one, other, one, other)
    assert [type(outcome.error) for outcome in outcomes] == [type(None), type(None), ExpositionError, type(None)]
    assert "answers for more than one engine in turn" in str(outcomes[2].error)
    assert outcomes[3].counters.key.boot == outcomes[1].counters.key.boot


def test_a_restarted_farthing_goes_on_where_the_journal_ends():
    """The last counters of the journal give boot and sequence, and show a reset that happened meanwhile."""
    (before,) = scrape(exposition())
    (same,) = scrape(exposition(output=400), resume=before.counters)
    assert same.records[0].key.boot == before.counters.key.boot
    assert [record.key.sequence for record in same.records] == [2]
    (reset,) = scrape(exposition(output=4), resume=before.counters)
    assert reset.started.key.boot == f"{before.counters.key.boot}#1"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (httpx.ConnectError("refused"), EngineUnreachableError, "did not answer: connection failed (refused)"),
        (httpx.ReadTimeout("slow"), EngineUnreachableError, "did not answer: nothing within 5 s"),
        (httpx.RemoteProtocolError("peer closed"), EngineUnreachableError, "RemoteProtocolError (peer closed)"),
        (httpx.Response(503), EngineUnreachableError, "answered HTTP 503"),
        (httpx.Response(404), ExpositionError, "answered HTTP 404; check engines[].url and metrics_path"),
        (httpx.Response(401), ExpositionError, "answered HTTP 401: its metrics need credentials"),
        (
            httpx.Response(302, headers={"location": "https://login.example/"}),
            ExpositionError,
            "redirects (HTTP 302) to https://login.example/",
        ),
        (httpx.Response(200, html="<html>\n"), ExpositionError, "answered an HTML or XML page"),
        (httpx.Response(200, text="up 1\n"), ExpositionError, "not vLLM"),
    ],
)
def test_every_failure_is_an_outcome_with_its_reason(answer, error, message):
    """The URL and the reason in one line, counted; nothing is recorded and no gauge is invented."""
    (outcome,) = scrape(answer)
    assert type(outcome.error) is error
    assert str(outcome.error).startswith(f"{URL}/metrics ")
    assert message in str(outcome.error)
    assert len(str(outcome.error).splitlines()) == 1
    assert outcome.records == []
    assert outcome.gauges.scrape_up is False
    assert outcome.gauges.scrape_failures == 1
    assert outcome.gauges.running is None


def test_a_body_beyond_the_limit_is_refused_before_it_is_whole():
    """A wrong address may stream for ever."""

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self):
            while True:
                yield b"x 1\n" * 1024

    (outcome,) = scrape(httpx.Response(200, stream=Endless()), max_body=10_000)
    assert "answered more than 10000 bytes" in str(outcome.error)


def test_failures_are_counted_and_the_count_stays():
    """A scrape that succeeds again does not forget the failures before it."""
    outcomes = scrape("junk", "junk", exposition(), "junk")
    assert [outcome.gauges.scrape_failures for outcome in outcomes] == [1, 2, 2, 3]
    assert [outcome.gauges.scrape_up for outcome in outcomes] == [False, False, True, False]


def test_an_engine_that_had_to_be_waited_for_was_watched_from_the_first_try():
    """It was already billed while it started."""
    *_, outcome = scrape(httpx.ConnectError("refused"), httpx.ConnectError("refused"), exposition())
    assert outcome.started.at_ns == 1_000 * SECOND
    assert outcome.counters.at_ns == 1_004 * SECOND


def test_a_lasting_outage_is_recorded_as_down_but_not_its_last_minutes():
    """The engine's own start, which ends an outage, can only be told from it afterwards."""
    back = exposition(start="1.795449e+09", created="1.79544904e+09")
    engine = Engine(exposition(), *[httpx.ConnectError("refused")] * 60, back)
    outcomes = engine.scrape(engine.scraper(), every_ns=10 * SECOND)
    downs = [outcome.down for outcome in outcomes if outcome.down]
    assert len(downs) == 5
    assert {down.event for down in downs} == {"down"}
    assert downs[0].at_ns >= outcomes[1].at_ns
    # the second boot begins when it answers; the wait for it belongs to the first
    assert outcomes[-1].started.at_ns == outcomes[-1].counters.at_ns
    assert downs[-1].at_ns <= outcomes[-2].at_ns - DOWN_AFTER_NS
    coster = ScrapedCoster("", lambda start, end: end - start, "")
    windows = [window for outcome in outcomes for record in outcome.records for window in coster.feed(record)]
    spans: dict[str, int] = {}
    for window in windows:
        (posting,) = window.postings
        spans[posting.account] = spans.get(posting.account, 0) + posting.nano
    assert spans == {"down": 570 * SECOND, "starting": 40 * SECOND}


def test_short_outages_do_not_add_up_to_a_lasting_one():
    """An engine that answers in between was not down."""
    short = [httpx.ConnectError("refused")] * 20
    engine = Engine(exposition(), *short, exposition(), *short, exposition(), *short)
    outcomes = engine.scrape(engine.scraper(), every_ns=10 * SECOND)
    assert [outcome.down for outcome in outcomes if outcome.down] == []


def test_a_server_that_drips_bytes_cannot_hold_a_scrape():
    """The time-out is for the whole scrape, not for each read."""

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            while not stop.wait(0.05):
                try:
                    self.wfile.write(b"#\n")
                except OSError:
                    return

        def log_message(self, *arguments):
            pass

    stop = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    async def once():
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{server.server_port}"
            scraper = EngineScraper("e", url, load_catalogue("vllm"), client, anchored_clock(), timeout_seconds=0.3)
            return await scraper.scrape()

    try:
        outcome = asyncio.run(asyncio.wait_for(once(), 10))
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert "nothing within 0.3 s" in str(outcome.error)


def test_probing_an_engine_reports_its_version_model_and_signals():
    """What ``farthing check`` shows; without a probe it says what that costs."""
    transport = httpx.MockTransport(
        lambda request: (
            httpx.Response(200, json={"version": "0.32.0"})
            if request.url.path == "/version"
            else httpx.Response(200, text=exposition())
        )
    )
    probe = probe_engine(URL + "/", transport=transport)
    assert (probe.url, probe.kind, probe.version, probe.model) == (f"{URL}/metrics", "vllm", "0.32.0", "tiny")
    assert probe.used["prompt_tokens_total"] == "vllm:prompt_tokens_total"
    assert [sentence.partition(":")[0] for sentence in probe.degraded] == ["no probe reports from it"]
    assert probe_engine(URL, transport=transport, probe_reports=True).degraded == ()


def test_probing_reports_metrics_that_the_catalogue_does_not_know():
    """A new release may have renamed what Farthing reads: one sentence names what is new, and no more than five."""
    renamed = exposition().replace("vllm:num_preemptions_", "vllm:num_evictions_")
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=renamed))
    degraded = probe_engine(URL, transport=transport, probe_reports=True).degraded
    assert [sentence.partition(";")[0] for sentence in degraded] == [
        "vllm:num_preemptions_total is missing: recomputed work is unknown",
        "metrics that the catalogue of vLLM (v1 engine) does not know: vllm:num_evictions",
    ]
    many = exposition() + "".join(f"vllm:new_{number} 1\n" for number in range(7))
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=many))
    (sentence,) = probe_engine(URL, transport=transport, probe_reports=True).degraded
    assert "vllm:new_0, vllm:new_1, vllm:new_2, vllm:new_3, vllm:new_4 and 2 more; " in sentence
    assert "\n" not in sentence


def test_names_of_an_older_release_are_not_reported_as_new():
    """vLLM 0.10 has the names of both engines; the catalogue of older releases knows them."""
    both = exposition() + "".join(f"vllm:{name} 1\n" for name in ("gpu_cache_usage_perc", "num_requests_swapped"))
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=both))
    assert probe_engine(URL, transport=transport, probe_reports=True).degraded == ()


def test_probing_an_old_engine_says_what_is_degraded():
    """Before vLLM 0.16 there are no per-source prompt tokens, and here no version either."""
    old = "\n".join(line for line in exposition().splitlines() if "prompt_tokens_" not in line or "_total" in line)
    old = "\n".join(line for line in old.splitlines() if "by_source" not in line and "cached" not in line) + "\n"
    transport = httpx.MockTransport(
        lambda request: httpx.Response(404) if request.url.path == "/version" else httpx.Response(200, text=old)
    )
    probe = probe_engine(URL, transport=transport, probe_reports=True)
    assert probe.version == ""
    assert [sentence.partition(" ")[0] for sentence in probe.degraded] == [
        "vllm:prompt_tokens_by_source_total",
        "vllm:prompt_tokens_cached_total",
    ]


def test_probing_what_does_not_answer_raises_with_url_and_reason():
    """Nothing listens on a port that was just closed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    with pytest.raises(EngineUnreachableError, match=r"127\.0\.0\.1.*connection failed.*is the engine running"):
        probe_engine(f"http://127.0.0.1:{server.server_port}")


def test_the_anchored_clock_never_runs_backwards():
    """It is the wall clock once, and the monotonic clock from then on."""
    clock = anchored_clock()
    readings = [clock() for _ in range(100)]
    assert readings == sorted(readings)
    assert readings[0] > 1_700_000_000 * SECOND
