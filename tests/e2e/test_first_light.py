"""One command: a replayed H100's cost, latency and one alert, on the real Prometheus and Alertmanager, in a browser."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_metrics
from tests.e2e.webhook import Webhook
from tests.exporters.browsing import attributes, chromium
from tests.stack.scenery import free_offset, require

from farthing.domain import conventions as c
from farthing.domain.money import to_nano
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

READY_SECONDS = 60
ALERT_SECONDS = 120
UNHURRIED_SECONDS = 60
TENANTS = {"acme", "globex", "initech", "umbrella"}
FARTHING = (sys.executable, "-m", "farthing.cli.main")


@dataclass
class Stack:
    """A running native stack."""

    folder: Path
    offset: int
    webhook: Webhook
    ready_seconds: float
    said: str
    """What the command printed."""

    def farthing_command(self, *words):
        """What a command about this stack prints."""
        config = str(self.folder / "state/farthing.effective.yaml")
        return subprocess.run(
            [*FARTHING, *words, "--config", config], capture_output=True, text=True, timeout=60, check=True
        )

    @cached_property
    def login_link(self):
        """As a person sees it, once."""
        (line,) = (line for line in self.farthing_command("secrets", "reveal").stdout.splitlines() if "/login#" in line)
        return line.split()[-1]

    @property
    def reader(self):
        """The header of who may read everything, as Prometheus sends it."""
        return {"authorization": f"Bearer {(self.folder / 'state/secrets/read-token').read_text().strip()}"}

    def metrics(self, **headers):
        """The service's own metrics."""
        return httpx.get(f"{self.farthing}/metrics", headers={**self.reader, **headers})

    def url(self, port):
        """Base URL of a part by its default port."""
        return f"http://127.0.0.1:{port + self.offset}"

    @property
    def farthing(self):
        """Base URL of farthing serve."""
        return self.url(c.DEFAULT_PORT)

    def ledger_sums(self):
        """Settled nano-dollars in the ledger: all of it, and by tenant (charged and aborted)."""
        ledger = Ledger.open(f"sqlite:///{self.folder}/state/ledger.db")
        try:
            j = t.journal.c
            total = ledger.select(sa.select(sa.func.sum(j.nano)))[0][0]
            mine = (
                sa.select(j.tenant, sa.func.sum(j.nano)).where(j.debit.in_(("charged", "aborted"))).group_by(j.tenant)
            )
            return int(total or 0), {tenant: int(nano) for tenant, nano in ledger.select(mine)}
        finally:
            ledger.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """``farthing up --native --detach`` with a webhook, and ``farthing down`` at the end."""
    require("prometheus")
    require("prometheus-alertmanager", "alertmanager")
    folder = tmp_path_factory.mktemp("first-light")
    webhook = Webhook()
    settings = {
        "alerts": {"webhook_url": webhook.url},
        # the recording's busiest phase begins 101 s into it
        "stack": {"state_dir": str(folder / "state"), "replay_lead_seconds": 95},
    }
    (folder / "farthing.yaml").write_text(yaml.safe_dump(settings))
    offset = free_offset(2_000)
    command = [*FARTHING, "up", "--native", "--detach", "--port-offset", str(offset)]
    environment = {**os.environ, "FARTHING_CONFIG": str(folder / "farthing.yaml")}
    began = time.monotonic()
    started = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    ready = time.monotonic() - began
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield Stack(folder, offset, webhook, ready, started.stdout + started.stderr)
    finally:
        stopped = subprocess.run(
            [*FARTHING, "down"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        webhook.close()
    assert stopped.returncode == 0, stopped.stderr
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _read(p)]
    assert left == [], "processes of the stack are left"


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _eventually(seconds, check):
    """What ``check`` returns once it raises nothing; its last complaint when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _tenant_nano(families):
    """tenant -> nano-dollars of the tenant cost metric."""
    found: dict[str, int] = {}
    for family in families:
        for sample in family.samples:
            if sample.name == c.METRIC_TENANT_COST:
                tenant = sample.labels["tenant"]
                found[tenant] = found.get(tenant, 0) + _nano(sample.value)
    return found


def _nano(dollars):
    return to_nano(f"{dollars:.9f}")


def test_every_part_is_healthy_within_a_minute(stack):
    """From the command to the table of URLs."""
    assert stack.ready_seconds < READY_SECONDS
    for url in (
        f"{stack.url(9090)}/-/ready",
        f"{stack.url(9093)}/-/ready",
        f"{stack.farthing}/readyz",
        f"{stack.farthing}/healthz",
        f"{stack.url(9465)}/metrics",
    ):
        assert httpx.get(url).status_code == 200


def test_the_page_in_a_browser_shows_four_tenants_and_its_numbers_are_those_of_metrics_and_ledger(stack):
    """What finance reads on the page is what Prometheus scrapes and what the journal holds, to the nano-dollar."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(stack.login_link)
        page.wait_for_selector('[data-testid="tenant-row"] >> nth=3', timeout=60_000)

        read = partial(attributes, page)

        def agree():
            """Windows settle every five seconds: look between two of them."""
            before = stack.metrics().text
            time.sleep(2.2)
            costs = [int(nano) for nano in read("tenant-row", "data-cost-nano")]
            shown = dict(zip(read("tenant-row", "data-tenant"), costs, strict=True))
            bill, residual = read("bill", "data-nano"), read("residual", "data-nano")
            lines = [int(nano) for nano in read("line", "data-nano")]
            settled, tenants = stack.ledger_sums()
            after = stack.metrics().text
            metered = _tenant_nano(text_metrics(after))
            assert _tenant_nano(text_metrics(before)) == metered, "a window settled meanwhile"
            assert set(shown) == TENANTS
            assert all(nano > 0 for nano in shown.values())
            assert shown == metered
            assert shown == {name: nano for name, nano in tenants.items() if name}
            values = {f.name: f.samples[0].value for f in text_metrics(after) if f.samples}
            assert [int(nano) for nano in bill] == [_nano(values["farthing_bill_usd"])]
            assert residual == ["0"]
            assert sum(lines) == int(bill[0])
            wip = sum(_nano(s.value) for f in text_metrics(after) if f.name == c.METRIC_WIP for s in f.samples)
            assert settled + wip == int(bill[0])

        _eventually(90, agree)


def test_without_a_token_nothing_is_told_and_how_to_log_in_is_shown_once(stack):
    """Not in the output that somebody keeps, nor in a log, nor in an address that a server sees."""
    for path in ("/metrics", "/api/v1/snapshot", "/api/v1/history", "/api/v1/gpus", "/api/v1/report", "/v1/usage"):
        answer = httpx.get(f"{stack.farthing}{path}")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    assert httpx.post(f"{stack.farthing}/v1/usage", content=b"").status_code == 401
    assert httpx.get(f"{stack.farthing}/metrics", headers=stack.reader).status_code == 200
    link = stack.login_link
    assert link.startswith(f"{stack.farthing}/login#token=farthing_")
    token = link.partition("token=")[2]
    again = stack.farthing_command("secrets", "reveal")
    assert (again.stdout, "shown before" in again.stderr) == ("", True)
    assert "farthing secrets reveal" in stack.said
    kept = [path for path in (stack.folder / "state").rglob("*") if path.is_file() and token.encode() in _read(path)]
    assert kept == []
    assert token not in stack.said


def test_the_status_command_asks_with_this_hosts_own_token(stack):
    """Nobody has to pass it one."""
    status = json.loads(stack.farthing_command("status", "--output", "json").stdout)
    assert status["source"] == f"{stack.farthing}/api/v1/snapshot"


def test_the_metrics_are_clean_text_by_default_and_openmetrics_with_exemplars_when_asked(stack):
    """promtool agrees with what curl is served; a scraper that negotiates gets exemplars."""
    plain = stack.metrics(accept="*/*")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    lint = subprocess.run(
        [require("promtool"), "check", "metrics"], input=plain.text, capture_output=True, text=True, check=False
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")
    answer = stack.metrics(accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    samples = [sample for family in open_metrics(answer.text) for sample in family.samples]
    assert any(sample.exemplar for sample in samples if sample.name.startswith(c.METRIC_TTFT))


def test_prometheus_scrapes_every_target_and_evaluates_every_rule(stack):
    """All targets are up, no rule fails, and exemplars are stored."""

    def all_up():
        targets = httpx.get(f"{stack.url(9090)}/api/v1/targets").json()["data"]["activeTargets"]
        assert {target["labels"]["job"] for target in targets} >= {c.JOB_ENGINES, c.JOB_FARTHING}
        assert {target["health"] for target in targets} == {"up"}, targets

    _eventually(30, all_up)

    def all_well():
        groups = httpx.get(f"{stack.url(9090)}/api/v1/rules").json()["data"]["groups"]
        assert groups
        for group in groups:
            # What looks back for hours or days is evaluated every minute or five, so its turn may not have come.
            fine = {"ok"} if group["interval"] < UNHURRIED_SECONDS else {"ok", "unknown"}
            assert {rule["health"] for rule in group["rules"]} <= fine, group

    _eventually(45, all_well)


def test_a_generated_alert_reaches_a_webhook_through_alertmanager_and_reads_well(stack):
    """The recording's 128 concurrent requests break the first-token promise; the message says so in words."""
    alert = stack.webhook.wait_for("LLMTimeToFirstTokenHigh", ALERT_SECONDS)
    assert alert["labels"]["severity"]
    text = alert["annotations"]["summary"] + alert["annotations"]["description"]
    assert "$" in text
    assert "{{" not in text
    assert alert["annotations"]["runbook_url"].endswith("LLMTimeToFirstTokenHigh.md")


def test_the_report_of_the_running_stack_foots_to_its_settled_bill(stack):
    """The finance view of the same ledger."""
    environment = {**os.environ, "FARTHING_CONFIG": str(stack.folder / "farthing.yaml")}
    command = [*FARTHING, "report", "--since", "all", "--by", "tenant", "--output", "csv"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert {line.split(",")[0] for line in printed.splitlines()[1:]} >= TENANTS
