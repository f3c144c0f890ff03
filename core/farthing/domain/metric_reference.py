"""The meaning of every metric that Farthing exports: one table for the exporter, the documentation and the tests."""

from __future__ import annotations

from typing import Final

from farthing.domain import conventions as names
from farthing.domain.metric_entry import Metric, MetricType
from farthing.domain.metric_reference_efficiency import EFFICIENCY_METRICS
from farthing.domain.metric_reference_gpu import DEVICE_METRICS, ENERGY_METRICS

__all__ = ["METRICS", "Metric", "MetricType", "metric"]

ENGINE: Final = (names.LABEL_ENGINE,)
TENANT: Final = (names.LABEL_TENANT, names.LABEL_MODEL, names.LABEL_TIER)
BUDGET: Final = (names.LABEL_TENANT, names.LABEL_PROJECT, names.LABEL_MODEL)
LATENCY: Final = (names.LABEL_MODEL, names.LABEL_TIER)


METRICS: Final = (
    Metric(
        names.METRIC_BILL,
        "counter",
        "USD",
        ENGINE,
        "What the engine's GPUs cost so far: allocation times price, up to the watermark, settled or not.",
    ),
    Metric(
        names.METRIC_COST,
        "counter",
        "USD",
        (*ENGINE, names.LABEL_ACCOUNT, names.LABEL_PHASE, names.LABEL_METHOD),
        "Settled cost by account; account charged is split by phase. With the work in progress, and less what late "
        "records moved (farthing_late_usd_total), an engine's accounts add up to its bill.",
    ),
    Metric(
        names.METRIC_UNATTRIBUTED,
        "counter",
        "USD",
        (*ENGINE, names.LABEL_REASON),
        "Settled busy cost that no request explained at first, by reason; expected below 0.5 % of busy cost.",
    ),
    Metric(
        names.METRIC_LATE,
        "counter",
        "USD",
        (*ENGINE, names.LABEL_PHASE, names.LABEL_METHOD),
        "Unattributed cost that late records moved to the tenants whose work it was: it is in both accounts.",
    ),
    Metric(
        names.METRIC_WIP,
        "gauge",
        "USD",
        (*ENGINE, names.LABEL_PHASE),
        "Cost of windows that are not settled yet; it moves to farthing_cost_usd_total when they are.",
    ),
    Metric(
        names.METRIC_RESIDUAL,
        "gauge",
        "USD",
        ENGINE,
        "Bill minus every account and the work in progress: 0, or the books are wrong.",
    ),
    Metric(
        names.METRIC_BUSY,
        "counter",
        "seconds",
        ENGINE,
        "Metered time in which the engine had work, of settled windows.",
    ),
    Metric(
        names.METRIC_TOKENS,
        "counter",
        "tokens",
        (*ENGINE, names.LABEL_MODEL, names.LABEL_KIND),
        "Tokens of settled work by kind; image tokens are a subset of the prompt's. Also says which model an engine "
        "serves.",
    ),
    Metric(
        names.METRIC_ENERGY,
        "counter",
        "joules",
        ENGINE,
        "Energy of the engine's GPUs from the driver's counter; absent where the driver has none.",
    ),
    Metric(
        names.METRIC_PRICE,
        "gauge",
        "USD per hour",
        (*ENGINE, names.LABEL_GPU),
        "Price of one GPU in force now; absent when no price applies.",
    ),
    Metric(
        names.METRIC_SPEND_RATE,
        "gauge",
        "USD per hour",
        ENGINE,
        "What the engine's allocation costs per hour now, all its GPUs together; absent when no price applies.",
    ),
    Metric(
        names.METRIC_UNIT_COST,
        "gauge",
        "USD per million tokens",
        (*ENGINE, names.LABEL_PHASE),
        "Settled cost, charged and aborted, per million tokens that the engine processed in the phase (computed "
        "prompt, output, encoder tokens) since the ledger began; for today's unit cost "
        "divide rates of farthing_cost_usd_total and farthing_tokens_total.",
    ),
    Metric(
        names.METRIC_FIT_ERROR,
        "gauge",
        "ratio",
        ENGINE,
        "Walk-forward error (weighted absolute percentage error, 0-1) of the split of busy time into phases.",
    ),
    Metric(
        names.METRIC_TENANT_COST,
        "counter",
        "USD",
        (*TENANT, names.LABEL_PHASE),
        "Settled cost of a tenant's requests by phase, and of those it aborted (phase aborted); tenants beyond the "
        "largest are together under other, and so are tiers.",
    ),
    Metric(
        names.METRIC_TENANT_TOKENS,
        "counter",
        "tokens",
        (*TENANT, names.LABEL_KIND),
        "Tokens of a tenant's settled requests by kind.",
    ),
    Metric(
        names.METRIC_TENANT_REQUESTS,
        "counter",
        "requests",
        (*TENANT, names.LABEL_OUTCOME),
        "A tenant's requests by outcome; requests without a tenant are counted under unknown. None where a tenant or a "
        "tier was only ever refused.",
    ),
    Metric(
        names.METRIC_SPEND_TODAY,
        "gauge",
        "USD",
        (names.LABEL_TENANT,),
        "Settled cost, charged and aborted, of a tenant's work of today (UTC); tenants beyond the largest under other.",
    ),
    Metric(
        names.METRIC_SPEND_MONTH,
        "gauge",
        "USD",
        (names.LABEL_TENANT,),
        "The same of this calendar month (UTC) so far.",
    ),
    Metric(
        names.METRIC_BILL_TODAY,
        "gauge",
        "USD",
        (),
        "Settled bill of today (UTC), all accounts of all engines together, by time of service.",
    ),
    Metric(
        names.METRIC_BILL_MONTH,
        "gauge",
        "USD",
        (),
        "The same of this calendar month (UTC) so far.",
    ),
    Metric(
        names.METRIC_SPEND_FORECAST,
        "gauge",
        "USD",
        (names.LABEL_BOUND,),
        "Forecast of this calendar month's whole bill: expected, and low and high of its 80 % interval.",
    ),
    Metric(
        names.METRIC_ANOMALY,
        "gauge",
        "USD",
        (names.LABEL_TENANT,),
        "Impact of a tenant's spend anomaly that goes on now: observed less expected; absent without one.",
    ),
    Metric(
        names.METRIC_BUDGET,
        "gauge",
        "USD",
        BUDGET,
        "Monthly budget; its labels are those that it is for, none for the whole bill. Budgets never block.",
    ),
    Metric(
        names.METRIC_BUDGET_SPENT,
        "gauge",
        "USD",
        BUDGET,
        "Settled spend of this calendar month (UTC) that counts against the budget.",
    ),
    Metric(
        names.METRIC_BUDGET_RATIO,
        "gauge",
        "ratio",
        BUDGET,
        "Spend by budget: 1 when it is used up.",
    ),
    Metric(
        names.METRIC_BUDGET_EVENT,
        "gauge",
        "seconds",
        (*BUDGET, names.LABEL_THRESHOLD),
        "When, since the epoch, this month's spend was first seen past the threshold (a share of the budget); absent "
        "before.",
    ),
    Metric(
        names.METRIC_UNPRICED,
        "gauge",
        "1",
        (*ENGINE, names.LABEL_MODEL),
        "1 for an engine that no price applies to: its records are kept, and its cost is in no amount.",
    ),
    Metric(
        names.METRIC_CAPACITY,
        "gauge",
        "USD",
        (names.LABEL_ACCOUNT, names.LABEL_REASON),
        "Booked cost, since the ledger began, of GPUs that no engine has and of what is shared; booked when a month is "
        "closed.",
    ),
    Metric(
        names.METRIC_KPI_UNIT_COST,
        "gauge",
        "USD",
        (names.LABEL_UNIT,),
        "Direct cost of one unit this month: request, and a million tokens of a kind or, as tokens, blended; absent "
        "where nobody counted.",
    ),
    Metric(
        names.METRIC_KPI_SHARE,
        "gauge",
        "ratio",
        (names.LABEL_SHARE,),
        "Parts of this month's bill: allocated to named tenants, unnamed, and by account; and saved, what caches saved "
        "of what the work would have cost without them.",
    ),
    Metric(
        names.METRIC_TTFT,
        "histogram",
        "seconds",
        LATENCY,
        "From a request's arrival to its first output token, as the client sees it.",
    ),
    Metric(
        names.METRIC_TPOT,
        "histogram",
        "seconds",
        LATENCY,
        "Mean time per output token after the first, one observation per request.",
    ),
    Metric(
        names.METRIC_E2E,
        "histogram",
        "seconds",
        LATENCY,
        "From a request's arrival to its end, as the client sees it.",
    ),
    Metric(
        names.METRIC_QUEUE,
        "histogram",
        "seconds",
        LATENCY,
        "Time a request waited in the engine's queue; none of requests that were given up, failed or refused before "
        "their first token.",
    ),
    Metric(
        names.METRIC_REQUESTS,
        "counter",
        "requests",
        (*LATENCY, names.LABEL_OUTCOME),
        "Requests as they end, by outcome: finished; aborted and failed (5xx), each apart where there was no first "
        "token; rejected (429: no room); invalid (another 4xx: the request's own fault). Tiers without an objective, "
        "beyond the first 20, are together under other, here as in the histograms.",
    ),
    Metric(
        names.METRIC_SLO_REQUESTS,
        "counter",
        "requests",
        (names.LABEL_SLO, names.LABEL_MODEL, names.LABEL_RESULT),
        "Requests as they end that count for a tenant's SLO, good or bad; other SLOs are computed from histograms.",
    ),
    *EFFICIENCY_METRICS,
    *ENERGY_METRICS,
    *DEVICE_METRICS,
    Metric(
        names.METRIC_INTAKE,
        "counter",
        "records",
        (names.LABEL_KIND, names.LABEL_RESULT),
        "Records that intake received, by kind and result: accepted, duplicate or refused. Of the kind body, bodies "
        "that were refused as a whole, or limited: told to come later.",
    ),
    Metric(
        names.METRIC_AUTH_FAILURES,
        "counter",
        "requests",
        (names.LABEL_REASON,),
        "Callers that were turned away, by reason: a token that there is none of, a login with one, or a scope that a "
        "token does not have. Who shows no token is not counted.",
    ),
    Metric(
        names.METRIC_SPANS,
        "counter",
        "spans",
        (names.LABEL_RESULT,),
        "Edge spans of sampled requests that Farthing was to hand to `traces.endpoint`, by what became of them: sent, "
        "failed (the collector was away or refused them), or dropped (the queue was full, or their ids are none).",
    ),
    Metric(
        names.METRIC_SPANS_WAITING,
        "gauge",
        "spans",
        (),
        "Edge spans that wait to be handed to `traces.endpoint`; they are few, since more are dropped.",
    ),
    Metric(
        names.METRIC_AUDIT_UP,
        "gauge",
        "1",
        (),
        "1 when the audit trail could be written the last time, 0 when not; absent where none is kept (`audit.dir`).",
    ),
    Metric(
        names.METRIC_AUDIT_RECORDS,
        "counter",
        "records",
        (),
        "Records of the audit trail, by the number of the last: one for each settled request, and events.",
    ),
    Metric(
        names.METRIC_AUDIT_FAILURES,
        "counter",
        "failures",
        (),
        "Times that the audit trail could not be written. Nothing is lost by it: what is missing is written later.",
    ),
    Metric(
        names.METRIC_DISCOVERED,
        "gauge",
        "1",
        (names.LABEL_SOURCE,),
        "Engines that a source of discovery finds: a pattern of files, a name of the DNS, a Docker engine. Those that "
        "are left out as doubles count as well.",
    ),
    Metric(
        names.METRIC_DISCOVERY_PROBLEMS,
        "gauge",
        "1",
        (names.LABEL_SOURCE,),
        "What is wrong with a source of discovery now, each of which the log has a line of: broken files, wrong "
        "labels, no answer.",
    ),
    Metric(
        names.METRIC_WATERMARK_LAG,
        "gauge",
        "seconds",
        ENGINE,
        "How far event time has got behind now: costs after that are still unknown.",
    ),
    Metric(
        names.METRIC_SCRAPE_UP,
        "gauge",
        "1",
        ENGINE,
        "1 when Farthing's last scrape of the engine succeeded, 0 when it failed; absent before the first.",
    ),
    Metric(
        names.METRIC_SCRAPE_FAILURES,
        "counter",
        "scrapes",
        ENGINE,
        "Scrapes of the engine that failed.",
    ),
    Metric(
        names.METRIC_CHECK,
        "gauge",
        "1",
        (*ENGINE, names.LABEL_CHECK),
        "1 when the named reconciliation agrees, 0 when it does not.",
    ),
    Metric(
        names.METRIC_BUILD,
        "info",
        "1",
        (names.LABEL_VERSION, names.LABEL_CURRENCY),
        "Always 1; the version of Farthing that answers, and the currency of its ledger, in which every metric named "
        "usd is counted.",
    ),
)
"""In the order of the documentation: by engine, by tenant, spend, latency, energy, devices, Farthing itself."""


def metric(name: str) -> Metric:
    """The reference entry of a METRIC_* name; KeyError when the name has none."""
    for entry in METRICS:
        if entry.name == name:
            return entry
    raise KeyError(name)
