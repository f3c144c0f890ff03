// The machines: state, load, and whether the books agree with what the engine counted.

import { el, show } from "./dom.js";
import { count, duration, known, measure, money, percent } from "./format.js";

const NO_SCRAPE = "neither a scrape nor the probe has said it";
const COLUMNS = ["Engine", "State", "GPUs", "Price", "Bill", "Running", "Waiting", "KV cache", "Output tok/s", "Energy", "Fit error", "Books lag", "Scrape"];
const TEXT_COLUMNS = 3;

/** One row per engine. */
export function showEngines(node, engines) {
  show(
    node,
    el(
      "table",
      { class: "engines" },
      el("thead", {}, el("tr", {}, COLUMNS.map((text, index) => el("th", { scope: "col", class: index >= TEXT_COLUMNS ? "num" : null }, text)))),
      el("tbody", {}, engines.map(engineRow)),
    ),
  );
}

function engineRow(engine) {
  const number = (content, title = null) => el("td", { class: "num", title }, content);
  const fit = engine.fit;
  const joules = (millijoules) => (millijoules >= 3.6e9 ? `${measure(millijoules / 3.6e9)} kWh` : `${measure(millijoules / 1e6)} kJ`);
  return el(
    "tr",
    { "data-testid": "engine-row", "data-engine": engine.name },
    el("th", { scope: "row" }, engine.name, el("small", {}, engine.model)),
    el("td", {}, el("span", { class: `state s-${engine.state}` }, engine.state)),
    el("td", {}, `${count(engine.gpu_count)} × ${engine.gpu || "unnamed GPU"}`),
    number(known(engine.price_nano_per_hour, (nano) => `${money(nano)}/h`, `no price applies to ${engine.gpu || "its GPU"}`)),
    number(known(engine.bill_nano, money, `no price applies to ${engine.gpu || "its GPU"}`)),
    number(known(engine.running, count, NO_SCRAPE)),
    number(known(engine.waiting, count, NO_SCRAPE)),
    number(known(engine.kv_usage, percent, NO_SCRAPE)),
    number(known(engine.generation_tokens_per_second, measure, NO_SCRAPE)),
    number(known(engine.energy_millijoules, joules, "no energy counter was read")),
    number(known(fit?.walk_forward_wape, percent, fit ? "the fit has not yet predicted a window" : "no fit yet"), fit && `fit ${fit.version}, ${fit.method}, over ${count(fit.windows)} windows`),
    number(known(engine.watermark_lag_seconds, duration, "no watermark yet")),
    number(known(engine.scrape_up, (up) => el("span", { class: up ? "ok" : "ko" }, up ? "up" : "down"), "the engine is not scraped"), `${count(engine.scrape_failures)} failed scrapes`),
  );
}

/** Every reconciliation of every engine, failures first. */
export function showChecks(node, note, engines) {
  const checks = engines.flatMap((engine) => engine.checks.map((check) => ({ engine: engine.name, ...check })));
  const failed = checks.filter((check) => !check.ok);
  show(note, checks.length ? (failed.length ? `${count(failed.length)} of ${count(checks.length)} disagree` : `all ${count(checks.length)} agree`) : "");
  if (!checks.length) {
    show(node, el("p", { class: "muted" }, "No reconciliation has run yet."));
    return;
  }
  const ordered = [...failed, ...checks.filter((check) => check.ok)];
  show(node, el("ul", { class: "checks" }, ordered.map((check) => checkItem(check, engines.length > 1))));
}

function checkItem(check, several) {
  return el(
    "li",
    { "data-testid": "check", "data-check": check.name, "data-engine": check.engine, "data-ok": String(check.ok) },
    el("span", { class: check.ok ? "ok" : "ko", "aria-label": check.ok ? "agrees" : "disagrees" }, check.ok ? "✓" : "✗"),
    el("strong", {}, check.name.replaceAll("_", " ")),
    el("span", { class: "muted" }, several ? `${check.engine}: ${check.detail}` : check.detail),
  );
}
