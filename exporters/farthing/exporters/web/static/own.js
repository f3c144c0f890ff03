// The page of somebody who sees some tenants alone: their cost, tokens, requests and latency, and nothing of the fleet.

import { add, latencyTile, lineName, segment, showShares, statementRow, swatch, tile, unit } from "./cost.js";
import { el, show } from "./dom.js";
import { count, known, measure, money, percent } from "./format.js";
import { OWN_PLOTS, Plots } from "./plots.js";
import { read } from "./session.js";
import { anomalyRow, budgetRow } from "./spend.js";

const LINES = ["prefill", "decode", "vision", "aborted"];
const REPORTS = ["day", "project", "model"];
const PAPERS_EVERY_MS = 600_000;
const NO_MINUTE = "two points, five seconds apart, are not known yet";
const byId = (id) => document.getElementById(id);

let plots = null;
let statements = [];
let askedAt = -Infinity;

/** Shows a tenant's snapshot and its past. */
export function showOwn(data, history) {
  const { tenants, spend } = data;
  const total = add(tenants);
  show(byId("own-tiles"), tiles(total, spend, history));
  byId("own-none").hidden = tenants.length > 0;
  byId("own-cost").hidden = tenants.length === 0;
  showBudgets(spend);
  if (tenants.length) {
    show(byId("own-lines"), lines(total));
    byId("own-tenants-card").hidden = tenants.length === 1;
    showShares(byId("own-tenants"), byId("own-tenants-note"), tenants, "Tenant", "tenant");
    showShares(byId("own-parts"), byId("own-parts-note"), parts(tenants), "Model and tier", "part");
  }
  showPapers();
  plots ??= new Plots(byId("own-plots"), OWN_PLOTS);
  plots.update(history);
}

function tiles(total, spend, history) {
  const recent = history.recent;
  const last = (column) => history[column].at(-1) ?? null;
  const window = recent.seconds ? `last ${Math.round(recent.seconds)} s` : "last minute";
  const ended = Object.values(total.requests).reduce((sum, value) => sum + value, 0);
  const outcomes = Object.entries(total.requests).filter(([, value]) => value).map(([outcome, value]) => `${outcome} ${count(value, true)}`);
  const prompt = (total.tokens.prompt_computed ?? 0) + (total.tokens.prompt_cached ?? 0);
  const why = "nothing is settled this month";
  return [
    tile("Month to date", known(spend?.month_nano, money, why), ["today ", known(spend?.today_nano, money, why)], { "data-testid": "own-month", "data-nano": spend?.month_nano }),
    tile("Cost so far", money(total.cost_nano), ["aborted ", money(total.aborted_nano), " of it"], { "data-testid": "own-total", "data-nano": total.cost_nano }),
    tile("Spend rate", known(last("spend_nano_per_hour"), (nano) => [money(nano), unit("/h")], NO_MINUTE), `settled work, ${window}`, { "data-testid": "own-rate" }),
    tile("Requests", count(ended, true), outcomes.join(" · ") || "none has settled", { "data-testid": "own-requests" }),
    tile("Output", known(last("generation_tokens_per_second"), (rate) => [measure(rate), unit("tok/s")], NO_MINUTE), ["prompts ", known(last("prompt_tokens_per_second"), (rate) => `${measure(rate)} tok/s`, NO_MINUTE)], { "data-testid": "own-throughput" }),
    tile("Tokens so far", [count(total.tokens.output ?? 0, true), unit("output")], `prompts ${count(prompt, true)}${prompt ? `, ${percent((total.tokens.prompt_cached ?? 0) / prompt)} from caches` : ""}`, { "data-testid": "own-tokens" }),
    latencyTile("Time to first token", recent.ttft_seconds, window, "ttft"),
    latencyTile("Time per output token", recent.tpot_seconds, window, "tpot"),
  ];
}

/** What was spent on each phase, exactly, and their sum. */
function lines(total) {
  const amounts = LINES.map((line) => [line, line === "aborted" ? total.aborted_nano : total.phases_nano[line] ?? 0n]);
  const whole = Number(total.cost_nano);
  return [
    el("div", { class: "bar tall", role: "img", "aria-label": "Shares of the cost" }, amounts.map(([line, nano]) => segment(line, Number(nano), whole, `${lineName(line)} ${money(nano)}`))),
    el(
      "table",
      { class: "statement" },
      el("tbody", {}, amounts.map(([line, nano], index) => lineRow(line, nano, index, whole))),
      el("tbody", {}, statementRow(["", "Sum"], "", total.cost_nano, { class: "strong", "data-testid": "own-sum", "data-nano": total.cost_nano })),
    ),
  ];
}

function lineRow(line, nano, index, whole) {
  const share = whole && Number(nano) ? percent(Number(nano) / whole) : "";
  const attributes = { class: Number(nano) ? null : "zero", "data-testid": "own-line", "data-account": line, "data-nano": nano };
  return statementRow([el("span", {}, index ? "+" : ""), [swatch(line), lineName(line)]], share, nano, attributes, "");
}

function parts(tenants) {
  const several = tenants.length > 1;
  return tenants
    .flatMap((tenant) => tenant.parts.map((part) => ({ ...part, part: label(several ? tenant.tenant : null, part) })))
    // a long name is cut in the table, and whole in its tooltip
    .map(({ part, ...rest }) => ({ ...rest, tenant: part, tiers: [part], models: [] }))
    .sort((left, right) => Number(right.cost_nano) - Number(left.cost_nano));
}

function label(tenant, part) {
  return [tenant, part.model, part.tier === "unknown" ? null : part.tier].filter(Boolean).join(" · ");
}

function showBudgets(spend) {
  const { budgets = [], anomalies = [] } = spend ?? {};
  byId("own-budgets-card").hidden = !budgets.length && !anomalies.length;
  show(byId("own-budgets-note"), spend ? `settled, ${spend.month}` : "");
  show(byId("own-budgets-title"), budgets.length ? "Budgets" : "Unusual spend");
  show(
    byId("own-budgets"),
    budgets.length ? el("ul", { class: "budgets" }, budgets.map(budgetRow)) : null,
    anomalies.length ? el("ul", { class: "anomalies" }, anomalies.slice(0, 3).map(anomalyRow)) : null,
  );
}

/** Links to reports of the month, and to every issued statement; the list is asked for now and then. */
function showPapers() {
  if (performance.now() - askedAt > PAPERS_EVERY_MS) {
    askedAt = performance.now();
    read("api/v1/statements").then((answer) => (statements = answer.statements), () => {});
  }
  const report = (by, output) => `api/v1/report?since=month&by=${by}&output=${output}`;
  show(
    byId("own-papers"),
    el("p", { "data-testid": "own-reports" }, "This month as a table: ", REPORTS.flatMap((by) => [el("a", { href: report(by, "table") }, `by ${by}`), " (", el("a", { href: report(by, "csv"), download: `cost-by-${by}.csv` }, "CSV"), ") "])),
    statements.length ? el("ul", { class: "papers" }, statements.toReversed().map(statementItem)) : null,
  );
}

function statementItem(one) {
  return el(
    "li",
    { "data-testid": "own-statement", "data-number": one.number },
    el("span", {}, `Statement ${one.number}`),
    el("span", { class: "muted" }, one.disputed ? `${count(one.disputed)} disputed` : ""),
    el("span", { class: "num strong" }, money(one.total_nano)),
    el("span", {}, one.forms.map((form) => [el("a", { href: `api/v1/statements/${one.number}.${form}`, download: form === "csv" ? `${one.number}.csv` : null }, form.toUpperCase()), " "])),
  );
}
