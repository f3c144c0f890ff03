// Spend of the day and the month, its forecast, and what is left of budgets.

import { el, show } from "./dom.js";
import { exactText, known, money, percent } from "./format.js";

const NOTHING = "nothing is booked, or no price applies";
const NO_MONTH = "the books began later";
const NO_FORECAST = "no hour is complete yet";

/** The block of spend; hidden until it was computed for the first time. */
export function showSpend(card, note, node, spend) {
  card.hidden = spend === null;
  if (spend === null) return;
  show(note, `settled, ${spend.month}, complete to ${new Date(spend.through_ms).toISOString().slice(0, 16).replace("T", " ")} UTC`);
  show(
    node,
    el("dl", { class: "figures" }, [
      figure("Today", spend.today_nano, ["yesterday ", known(spend.yesterday_nano, money, NOTHING)], "today"),
      figure("Month to date", spend.month_nano, ["last month ", known(spend.last_month_nano, money, NO_MONTH)], "month"),
      forecastFigure(spend.forecast),
    ]),
    spend.budgets.length ? el("ul", { class: "budgets" }, spend.budgets.map(budgetRow)) : null,
    spend.anomalies.length ? el("ul", { class: "anomalies" }, spend.anomalies.slice(0, 3).map(anomalyRow)) : null,
    spend.capacity.length ? el("p", { class: "muted" }, "Beyond running engines: ", spend.capacity.map((line) => `${words(line.account)} (${words(line.reason)}) ${money(line.nano)}`).join(", ")) : null,
    spend.unpriced.map((one) => el("p", { class: "aborted", title: one.reason, "data-testid": "unpriced", "data-engine": one.engine }, `${one.engine}: unpriced, in no amount here`)),
  );
}

function figure(label, nano, detail, name) {
  return el("div", { "data-testid": `spend-${name}`, "data-nano": nano }, el("dt", {}, label), el("dd", { title: nano === null ? null : exactText(nano) }, known(nano, money, NOTHING)), el("dd", { class: "detail" }, detail));
}

function forecastFigure(forecast) {
  const shown = known(forecast, (value) => money(value.expected_nano), NO_FORECAST);
  const detail = forecast ? `80 %: ${money(forecast.low_nano)} to ${money(forecast.high_nano)}` : "";
  const attributes = { "data-testid": "spend-forecast", "data-nano": forecast?.expected_nano, title: forecast?.method };
  return el("div", attributes, el("dt", {}, "Month, forecast"), el("dd", {}, shown), el("dd", { class: "detail" }, detail));
}

export function budgetRow(budget) {
  const share = Number(budget.spent_nano) / Number(budget.monthly_nano);
  const expected = budget.forecast ? Number(budget.forecast.expected_nano) / Number(budget.monthly_nano) : null;
  const level = share >= 1 ? "over" : expected !== null && expected > 1 ? "risk" : "within";
  const passed = budget.events.map((event) => `${percent(Number(event.threshold))} on ${new Date(event.at_ms).toISOString().slice(0, 10)}`).join(", ");
  const attributes = { "data-testid": "budget", "data-budget": budget.name, "data-spent-nano": budget.spent_nano, "data-level": level };
  return el(
    "li",
    attributes,
    el("span", { class: "name" }, budget.name),
    el("div", { class: "bar", title: passed ? `Passed ${passed}` : "No threshold passed this month" }, el("span", { class: `fill ${level}`, style: { width: `${Math.min(100, 100 * share)}%` } })),
    el("span", { class: "num" }, `${money(budget.spent_nano)} of ${money(budget.monthly_nano)} (${percent(share)})`),
    el("span", { class: "num muted" }, "forecast ", known(budget.forecast, (value) => money(value.expected_nano), NO_FORECAST)),
  );
}

export function anomalyRow(anomaly) {
  const whose = anomaly.tenant ?? "everything";
  const since = new Date(anomaly.start_ms).toISOString().slice(0, 16).replace("T", " ");
  const sign = Number(anomaly.impact_nano) > 0 ? "more" : "less";
  const size = Number(anomaly.impact_nano) < 0 ? -BigInt(anomaly.impact_nano) : anomaly.impact_nano;
  return el("li", { "data-testid": "anomaly", "data-tenant": whose }, `${whose}: ${words(anomaly.kind)}, ${money(size)} ${sign} than usual since ${since} UTC${anomaly.end_ms === null ? "" : ", over"}`);
}

function words(name) {
  return name.replaceAll("_", " ");
}
