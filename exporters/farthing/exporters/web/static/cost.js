// The money: what it costs now, where it went, who spent it.

import { el, show } from "./dom.js";
import { count, duration, exact, exactText, known, measure, money, percent, unknown } from "./format.js";

const PHASES = ["prefill", "decode", "vision"];
const TOKENS_OF = { prefill: "prompt tokens", decode: "output tokens", vision: "image tokens" };
const LINES = {
  prefill: ["Prefill", "Computing prompts"],
  decode: ["Decode", "Generating output"],
  vision: ["Vision", "Encoding images"],
  charged: ["Charged", "Charged to tenants, phase unknown"],
  aborted: ["Aborted", "Work for clients that hung up"],
  starting: ["Starting", "Loading models"],
  idle: ["Idle", "GPUs ready, nothing to do"],
  asleep: ["Asleep", "Engine put to sleep, GPUs still billed"],
  draining: ["Draining", "Finishing what runs, taking nothing new"],
  down: ["Down", "Engine not running, GPUs still billed"],
  unattributed: ["Unattributed", "Busy, but no request explains it"],
  wip: ["Work in progress", "Not settled yet; may still change account"],
};
const METHODS = {
  metered: "Metered: read from clocks and prices",
  modelled: "Modelled: split by a fit that predicts the next window within 10 %",
  estimated: "Estimated: no fit good enough, or records are missing",
  assumed: "Assumed: a stated default, nothing measured",
  provisional: "Provisional: these windows are not settled yet",
};
const TENANTS_SHOWN = 100;
const NO_SCRAPE = "no engine has reported it";

/** The row of tiles: cost first, service below. */
export function showTiles(node, data, history) {
  show(node, spendTile(data), PHASES.map((phase) => unitTile(phase, data.fleet.unit_cost[phase])), serviceTiles(data, history));
}

export function tile(label, value, details, attributes = {}) {
  return el("div", { class: "tile card", ...attributes }, el("h3", {}, label), el("p", { class: "value" }, value), el("p", { class: "detail" }, details));
}

function spendTile(data) {
  const { spend_nano_per_hour: rate, unpriced } = data.fleet;
  const gpus = data.engines.filter((engine) => !unpriced.includes(engine.name)).reduce((sum, engine) => sum + engine.gpu_count, 0);
  const value = known(rate, (nano) => [money(nano), unit(unpriced.length ? "/h and more" : "/h")].flat(), "no engine has a price");
  const details =
    rate === null ? "add prices to farthing.yaml" : `${money(Number(rate) * 24)} a day · ${count(gpus)} GPU${gpus === 1 ? "" : "s"}, busy or idle`;
  return tile("Spend rate", value, details, { "data-testid": "spend-rate", "data-nano": rate });
}

function unitTile(phase, cost) {
  const value = known(cost.nano_per_million, (nano) => [money(nano), unit(`per M ${TOKENS_OF[phase]}`)], `no settled ${TOKENS_OF[phase]} yet`);
  const methods = Object.keys(cost.methods_nano);
  const details = methods.length ? [badges(cost.methods_nano), fitError(cost.fit_error, methods.length)] : "since the ledger began";
  const attributes = { "data-testid": "unit-cost", "data-phase": phase, "data-nano": cost.nano_per_million, "data-method": methods.join(" ") };
  return tile([swatch(phase), `${LINES[phase][0]} cost`], value, details, attributes);
}

function fitError(error, badgesBefore) {
  const title = "Walk-forward error: how far predicting each next window's busy time from the past ones was off";
  return el("span", { class: "muted", title }, "± ", known(error, percent, "the fit has not yet predicted a window"), badgesBefore > 1 ? null : " fit error");
}

function serviceTiles(data, history) {
  const total = (key) => sumKnown(data.engines.map((engine) => engine[key]));
  const fullest = data.engines.map((engine) => engine.kv_usage).filter((value) => value !== null);
  const recent = history?.recent;
  const window = recent?.seconds ? `last ${Math.round(recent.seconds)} s` : "last minute";
  return [
    tile("Output", known(total("generation_tokens_per_second"), (rate) => [measure(rate), unit("tok/s")], NO_SCRAPE), ["prompts ", known(total("prompt_tokens_per_second"), (rate) => `${measure(rate)} tok/s`, NO_SCRAPE)], { "data-testid": "throughput" }),
    latencyTile("Time to first token", recent?.ttft_seconds, window, "ttft"),
    latencyTile("Time per output token", recent?.tpot_seconds, window, "tpot"),
    tile("Queue", known(total("waiting"), (waiting) => [count(waiting), unit("waiting")], NO_SCRAPE), [known(total("running"), count, NO_SCRAPE), " running · KV cache ", fullest.length ? percent(Math.max(...fullest)) : unknown(NO_SCRAPE)], { "data-testid": "queue" }),
  ];
}

export function latencyTile(label, latency, window, testid) {
  const why = "no request ended in this time";
  return tile(label, known(latency?.p95, (seconds) => [duration(seconds), unit("p95")], why), [`median `, known(latency?.p50, duration, why), ` · ${window}`], { "data-testid": testid });
}

/** The identity as a statement: the bill, every line of it, and the residual. */
export function showIdentity(node, balance, fleet, currency) {
  const bill = Number(fleet.bill_nano);
  show(
    balance,
    fleet.balanced
      ? el("span", { class: "pill good", title: "For every engine the lines add up to the bill, exactly" }, "✓ adds up to the nano-dollar")
      : el("span", { class: "pill bad", title: "The lines do not add up to the bill: do not use these numbers" }, "✗ does not add up"),
  );
  const lines = fleet.lines.filter((line) => line.account in LINES || line.nano);
  show(
    node,
    el("div", { class: "bar tall", role: "img", "aria-label": "Shares of the bill" }, lines.map((line) => segment(line.account, Number(line.nano), bill, lineName(line.account)))),
    el(
      "table",
      { class: "statement" },
      el("tbody", {}, statementRow(["", "Bill", el("small", {}, `GPU allocation × price, ${currency}`)], "", fleet.bill_nano, { class: "strong", "data-testid": "bill", "data-nano": fleet.bill_nano })),
      el("tbody", {}, lines.map((line, index) => lineRow(line, index, fleet, bill))),
      el(
        "tbody",
        {},
        statementRow(["", "Sum of lines"], "", fleet.lines_nano, { class: "strong", "data-testid": "sum", "data-nano": fleet.lines_nano }),
        statementRow(["", "Residual", el("small", {}, "bill − lines; must be 0")], "", fleet.residual_nano, { class: fleet.balanced ? "settled" : "wrong", "data-testid": "residual", "data-nano": fleet.residual_nano }),
      ),
    ),
  );
}

export function statementRow([mark, name, note], share, nano, attributes, method = null) {
  const middle = method === null ? [] : [el("td", {}, method), el("td", { class: "share" }, share)];
  return el(
    "tr",
    attributes,
    el("td", { class: "mark" }, mark),
    el("th", { scope: "row", colspan: method === null ? 3 : null }, name, note ?? null),
    middle,
    el("td", { class: "num" }, exact(nano)),
  );
}

function lineRow(line, index, fleet, bill) {
  const [name, hint] = LINES[line.account] ?? [line.account, ""];
  const notes = { unattributed: () => reasons(fleet.unattributed_nano), vision: () => withPrefill(line, fleet.lines) };
  const method = line.account === "wip" ? badge("provisional") : badges(line.methods_nano);
  return statementRow(
    [el("span", { class: "sign" }, index ? "+" : "="), [swatch(line.account), el("span", { title: hint }, name)], notes[line.account]?.()],
    bill && line.nano ? percent(Number(line.nano) / bill) : "",
    line.nano,
    { class: line.nano ? null : "zero", "data-testid": "line", "data-account": line.account, "data-nano": line.nano },
    method,
  );
}

function reasons(amounts) {
  const text = Object.entries(amounts).filter(([, nano]) => nano).map(([reason, nano]) => `${reason.replaceAll("_", " ")} ${money(nano)}`);
  return text.length ? el("small", { class: "parts" }, text.join(", ")) : null;
}

/** Images are encoded and prefilled in the same steps, so a fit knows their sum better than either. */
function withPrefill(vision, lines) {
  const prefill = lines.find((line) => line.account === "prefill");
  if (!vision.nano) return null;
  const title = "Images are encoded and prefilled in the same engine steps: the sum is surer than its two parts";
  return el("small", { class: "parts", title }, `with prefill ${money(BigInt(vision.nano) + BigInt(prefill.nano))}`);
}

/** Tenants by cost. */
export function showTenants(node, note, tenants) {
  showShares(node, note, tenants, "Tenant", "tenant");
}

/** Tenants, or parts of what they spent, by cost; beyond the first hundred one row keeps the others' dollars. */
export function showShares(node, note, tenants, title, noun) {
  show(note, tenants.length ? `${count(tenants.length)} ${noun}${tenants.length === 1 ? "" : "s"}, settled work` : "");
  if (!tenants.length) {
    show(node, el("p", { class: "muted" }, "No settled request yet. A request settles when every request that shared its time window is known, at most two minutes later by default."));
    return;
  }
  const shown = tenants.slice(0, TENANTS_SHOWN);
  const rest = tenants.slice(TENANTS_SHOWN);
  const total = add(tenants);
  const largest = Math.max(Number(tenants[0].cost_nano), 1);
  const head = [title, "", "Cost", "Share", "Aborted", "Requests", "Prompt tok.", "Output tok."];
  show(
    node,
    el(
      "table",
      { class: "tenants" },
      el("thead", {}, el("tr", {}, head.map((text, index) => el("th", { scope: "col", class: index > 1 ? "num" : null }, text)))),
      el("tbody", {}, shown.map((tenant) => tenantRow(tenant, largest, total, noun)), rest.length ? restRow(rest, total, noun) : null),
      el("tfoot", {}, el("tr", {}, el("th", { scope: "row", colspan: 2 }, "Total"), cells(total, total))),
    ),
  );
}

function tenantRow(tenant, largest, total, noun) {
  const segments = [...PHASES.map((phase) => [phase, tenant.phases_nano[phase] ?? 0]), ["aborted", tenant.aborted_nano]];
  const attributes = {
    "data-testid": `${noun}-row`,
    [`data-${noun}`]: tenant.tenant,
    "data-cost-nano": tenant.cost_nano,
    "data-charged-nano": tenant.charged_nano,
    "data-aborted-nano": tenant.aborted_nano,
  };
  const where = [...tenant.tiers, ...tenant.models].filter((name) => name && name !== "unknown").join(" · ");
  const named = tenant.tenant === "unknown" ? el("em", { title: "Requests that named no tenant" }, "unknown") : tenant.tenant;
  return el(
    "tr",
    attributes,
    el("th", { scope: "row", title: where }, named),
    el("td", { class: "wide" }, el("div", { class: "bar" }, segments.map(([name, nano]) => segment(name, Number(nano), largest, `${lineName(name)} ${money(nano)}`)))),
    cells(tenant, total),
  );
}

function restRow(rest, total, noun) {
  return el("tr", { "data-testid": `${noun}-rest` }, el("th", { scope: "row", colspan: 2 }, `${count(rest.length)} more ${noun}s`), cells(add(rest), total));
}

function cells(tenant, total) {
  const requests = Object.values(tenant.requests).reduce((sum, value) => sum + value, 0);
  const outcomes = Object.entries(tenant.requests).map(([outcome, value]) => `${outcome} ${count(value)}`).join(", ");
  const prompt = ["prompt_computed", "prompt_cached"].map((kind) => tenant.tokens[kind]).filter((value) => value !== undefined);
  const tokens = (value, title) => el("td", { class: "num", title }, known(value, (known) => count(known, true), "no engine counted them"));
  return [
    el("td", { class: "num strong", title: exactText(tenant.cost_nano) }, money(tenant.cost_nano)),
    el("td", { class: "num muted" }, Number(total.cost_nano) ? percent(Number(tenant.cost_nano) / Number(total.cost_nano)) : ""),
    el("td", { class: Number(tenant.aborted_nano) ? "num aborted" : "num zero", title: exactText(tenant.aborted_nano) }, money(tenant.aborted_nano)),
    el("td", { class: "num", title: outcomes }, count(requests, true)),
    tokens(prompt.length ? prompt.reduce((sum, value) => sum + value, 0) : null, `computed ${count(tenant.tokens.prompt_computed ?? 0)}, cached ${count(tenant.tokens.prompt_cached ?? 0)}`),
    tokens(tenant.tokens.output ?? null, `${count(tenant.tokens.output ?? 0)} output tokens`),
  ];
}

/** The sum of tenants' rows; amounts are BigInts. */
export function add(tenants) {
  const total = { cost_nano: 0n, aborted_nano: 0n, phases_nano: {}, tokens: {}, requests: {} };
  for (const tenant of tenants) {
    total.cost_nano += BigInt(tenant.cost_nano);
    total.aborted_nano += BigInt(tenant.aborted_nano);
    for (const [phase, nano] of Object.entries(tenant.phases_nano)) total.phases_nano[phase] = (total.phases_nano[phase] ?? 0n) + BigInt(nano);
    for (const key of ["tokens", "requests"]) {
      for (const [name, value] of Object.entries(tenant[key])) total[key][name] = (total[key][name] ?? 0) + value;
    }
  }
  return total;
}

function sumKnown(values) {
  const numbers = values.filter((value) => value !== null);
  return numbers.length ? numbers.reduce((sum, value) => sum + value, 0) : null;
}

export function segment(name, part, whole, title) {
  return part > 0 && whole > 0 ? el("span", { class: `seg c-${name}`, title, style: { width: `${(100 * part) / whole}%` } }) : null;
}

export function lineName(account) {
  return LINES[account]?.[0] ?? account;
}

function badges(methods) {
  return Object.keys(methods).map(badge);
}

function badge(method) {
  return el("span", { class: `badge m-${method}`, title: METHODS[method] ?? method }, method);
}

export function swatch(account) {
  return el("span", { class: `swatch c-${account}` });
}

export function unit(text) {
  return el("span", { class: "unit" }, text);
}
