// Polls Farthing and shows what it says. Two requests every two seconds; history comes as what is new since the last.

import { showIdentity, showTenants, showTiles } from "./cost.js";
import { el, show } from "./dom.js";
import { showChecks, showEngines } from "./engines.js";
import { clock, count, parseExact, setCurrency } from "./format.js";
import { showOwn } from "./own.js";
import { FLEET_PLOTS, Plots } from "./plots.js";
import { LoginNeededError, login, logout, read, tokenOfAddress } from "./session.js";
import { showSpend } from "./spend.js";

const EVERY_MS = 2000;
const byId = (id) => document.getElementById(id);

let history = null;
let plots = null;
let lastAnswer = null;
let failure = null;
let snapshot = null;

/** Logs in with the token of a login link, if the address has one, then polls. */
async function begin() {
  const token = tokenOfAddress();
  byId("login-form").addEventListener("submit", (event) => {
    event.preventDefault();
    enter(byId("token").value);
  });
  if (token === null) await poll();
  else await enter(token);
}

async function enter(token) {
  try {
    await login(token);
  } catch (error) {
    askForToken(error.message);
    return;
  }
  byId("token").value = "";
  byId("login").hidden = true;
  await poll();
}

function askForToken(problem) {
  byId("login").hidden = false;
  byId("login-problem").hidden = !problem;
  show(byId("login-problem"), problem);
  byId("status").className = "status";
  show(byId("status"), "Not logged in");
  byId("token").focus();
}

async function poll() {
  try {
    const since = history?.at_ms.at(-1);
    const [data, news] = await Promise.all([read("api/v1/snapshot", parseExact), read(since ? `api/v1/history?since=${since}` : "api/v1/history", parseExact)]);
    // A server whose newest point is older than ours has begun anew: take all it has.
    const anew = since && (news.newest_ms ?? 0) < since;
    if (anew) history = await read("api/v1/history", parseExact);
    else history = history ? extended(history, news) : news;
    snapshot = data;
    failure = null;
    lastAnswer = new Date();
    render();
  } catch (error) {
    if (error instanceof LoginNeededError) {
      // Figures that somebody saw before the session ended must not stay here.
      if (snapshot) location.reload();
      else askForToken("");
      return;
    }
    failure = error;
  }
  renderStatus();
  setTimeout(poll, EVERY_MS);
}

/** The old columns with the new points behind them, no longer than the server's own ring. */
function extended(old, news) {
  const join = (before, after) => {
    if (Array.isArray(after)) return [...before, ...after].slice(-news.capacity);
    return Object.fromEntries(Object.entries(after).map(([key, value]) => [key, join(before[key], value)]));
  };
  const { capacity, newest_ms, recent, ...columns } = news;
  return { capacity, newest_ms, recent, ...join(old, columns) };
}

function render() {
  setCurrency(snapshot.currency);
  renderViewer(snapshot.viewer);
  byId("own").hidden = seesAll();
  if (seesAll()) renderFleet();
  else renderOwn();
}

function seesAll() {
  return snapshot.viewer?.sees_all ?? true;
}

function renderViewer(viewer) {
  byId("viewer").hidden = viewer === null;
  if (viewer === null) return;
  const button = byId("viewer").querySelector("button") ?? el("button", { type: "button", "data-testid": "logout" }, "Log out");
  button.onclick = logout;
  const title = viewer.sees_all ? "This token sees every tenant and the whole fleet" : `This token sees the rows of ${named(viewer)} alone`;
  show(byId("viewer"), el("span", { title }, viewer.name), button);
}

function named(viewer) {
  return viewer.tenants.join(", ") || "no tenant";
}

function renderOwn() {
  const { viewer, spend } = snapshot;
  show(byId("subtitle"), el("span", { class: "only", "data-testid": "only" }, `${named(viewer)} only`));
  show(byId("foot"), `Farthing ${snapshot.version} · amounts in ${snapshot.currency}${spend ? ` · complete to ${new Date(spend.through_ms).toISOString().slice(0, 16).replace("T", " ")} UTC` : ""}`);
  showOwn(snapshot, history);
}

function renderFleet() {
  const { engines, fleet, tenants } = snapshot;
  byId("empty").hidden = engines.length > 0;
  byId("board").hidden = engines.length === 0;
  show(byId("subtitle"), subtitle(engines));
  show(byId("foot"), `Farthing ${snapshot.version} · amounts in ${snapshot.currency} · ${intake(snapshot.intake)}`);
  if (!engines.length) return;
  showTiles(byId("tiles"), snapshot, history);
  showSpend(byId("spend-card"), byId("spend-note"), byId("spend"), snapshot.spend);
  showIdentity(byId("identity"), byId("balance"), fleet, snapshot.currency);
  showTenants(byId("tenants"), byId("tenants-note"), tenants);
  showEngines(byId("engines"), engines);
  showChecks(byId("checks"), byId("checks-note"), engines);
  plots ??= new Plots(byId("plots"), FLEET_PLOTS);
  plots.update(history);
}

function subtitle(engines) {
  if (!engines.length) return "";
  const gpus = engines.reduce((sum, engine) => sum + engine.gpu_count, 0);
  return `${count(engines.length)} engine${engines.length === 1 ? "" : "s"} on ${count(gpus)} GPU${gpus === 1 ? "" : "s"}`;
}

function intake(entries) {
  if (!entries.length) return "no records received yet";
  const total = (result) => entries.filter((entry) => entry.result === result).reduce((sum, entry) => sum + entry.records, 0);
  return ["accepted", "duplicate", "refused"].map((result) => `${count(total(result))} ${result}`).join(", ").concat(" records");
}

function renderStatus() {
  const node = byId("status");
  node.className = failure ? "status stale" : "status live";
  show(node, failure ? "No answer" : "Live", lastAnswer ? el("span", { title: snapshot.taken_at }, ` · as of ${clock(new Date(snapshot.taken_at))}`) : null);
  document.body.classList.toggle("old", Boolean(failure && lastAnswer));
  const banners = [];
  if (failure) {
    const since = lastAnswer ? `The numbers below are from ${clock(lastAnswer)}.` : "Nothing was received yet.";
    banners.push(el("p", { class: "banner bad", role: "alert", "data-testid": "banner" }, `Farthing does not answer (${failure.message}). ${since}`));
  }
  if (snapshot?.spend?.incomplete) {
    banners.push(el("p", { class: "banner warn", "data-testid": "banner" }, "Some engine has no price. What requests cost on it is in no amount on this page, and whose they were is not known."));
  }
  for (const engine of snapshot?.engines ?? []) {
    if (engine.price_nano_per_hour !== null) continue;
    const gpu = engine.gpu || "its GPU";
    banners.push(el("p", { class: "banner warn", "data-testid": "banner" }, `${engine.name} has no price: add one for ${gpu} under prices in farthing.yaml. Hours without a price are in no amount on this page.`));
  }
  show(byId("banners"), banners);
}

begin();
