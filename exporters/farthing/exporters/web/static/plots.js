// Live plots of the recent past, one card each, drawn by uPlot from columns that only ever grow at the end.

/* global uPlot */

import { el, show } from "./dom.js";
import { clock, count, duration, measure, money, percent, price, unknown } from "./format.js";

const HEIGHT = 168;
const SYNC = "farthing";
const dollars = (value) => money(value * 1e9);

/** Each plot: title, how a value reads, and its series as [label, colour variable, column of the history]. */
const TOKENS = {
  id: "tokens",
  title: "Tokens per second",
  unit: "",
  read: measure,
  series: [["output", "--c-decode", (h) => h.generation_tokens_per_second], ["prompt", "--c-prefill", (h) => h.prompt_tokens_per_second]],
};
const LATENCIES = [
  { id: "ttft", title: "Time to first token", unit: "", read: duration, series: quantiles("ttft_seconds") },
  { id: "tpot", title: "Time per output token", unit: "", read: duration, series: quantiles("tpot_seconds") },
];

/** What somebody sees who sees the fleet. */
export const FLEET_PLOTS = [
  { id: "spend", title: "Spend rate", unit: "per hour", read: dollars, tick: price, series: [["spend", "--accent", (h) => scaled(h.spend_nano_per_hour)]] },
  {
    id: "unit-cost",
    title: "Cost per million tokens",
    unit: "last minute's work",
    read: dollars, tick: price,
    series: ["prefill", "decode", "vision"].map((phase) => [phase, `--c-${phase}`, (h) => scaled(h.unit_cost_nano_per_million[phase])]),
  },
  TOKENS,
  ...LATENCIES,
  {
    id: "requests",
    title: "Requests",
    unit: "",
    read: count,
    series: [["running", "--c-decode", (h) => h.running], ["waiting", "--c-aborted", (h) => h.waiting]],
  },
  { id: "kv", title: "KV cache", unit: "fullest engine", read: percent, tick: (share) => `${Math.round(share * 100)} %`, top: 1, series: [["used", "--c-vision", (h) => h.kv_usage]] },
];

/** What somebody sees of some tenants alone: of settled work, over the last minute. */
export const OWN_PLOTS = [
  { id: "spend", title: "Spend rate", unit: "per hour", read: dollars, tick: price, series: [["spend", "--accent", (h) => scaled(h.spend_nano_per_hour)]] },
  TOKENS,
  { id: "requests", title: "Requests", unit: "per second", read: measure, series: [["ended", "--c-decode", (h) => h.requests_per_second]] },
  ...LATENCIES,
];

function quantiles(column) {
  return [["p50", "--c-prefill", (h) => h[column].p50], ["p95", "--c-aborted", (h) => h[column].p95]];
}

function scaled(column) {
  return column.map((nano) => (nano === null ? null : Number(nano) / 1e9));
}

/** The plots below `root`; `update(history)` redraws them. */
export class Plots {
  constructor(root, plots) {
    this.history = null;
    this.cards = plots.map((plot) => new Plot(plot));
    root.replaceChildren(...this.cards.map((card) => card.node));
    new ResizeObserver(() => this.cards.forEach((card) => card.resize())).observe(root);
    // Canvas colours are copied from the style sheet, so a change of scheme redraws from scratch.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.cards.forEach((card) => card.drop());
      if (this.history) this.update(this.history);
    });
  }

  update(history) {
    this.history = history;
    this.cards.forEach((card) => card.update(history));
  }
}

class Plot {
  constructor(plot) {
    this.plot = plot;
    this.canvas = el("div", { class: "canvas" });
    this.legend = el("p", { class: "legend" });
    this.node = el("section", { class: "card plot", "data-testid": "plot", "data-plot": plot.id }, el("h3", {}, plot.title, plot.unit ? el("span", { class: "unit" }, plot.unit) : null), this.legend, this.canvas);
    this.chart = null;
    this.data = [[]];
  }

  update(history) {
    this.data = [history.at_ms.map((ms) => ms / 1000), ...this.plot.series.map(([, , column]) => column(history))];
    if (this.chart) this.chart.setData(this.data);
    else this.draw();
    this.readOut(this.chart?.cursor.idx);
  }

  draw() {
    const width = this.canvas.clientWidth;
    if (width) this.chart = new uPlot(options(this.plot, width, (index) => this.readOut(index)), this.data, this.canvas);
  }

  drop() {
    this.chart?.destroy();
    this.chart = null;
  }

  resize() {
    if (this.chart) this.chart.setSize({ width: this.canvas.clientWidth, height: HEIGHT });
    else if (this.data[0].length) this.draw();
  }

  /** The legend's values: under the cursor, or the latest point's; what that does not know is not made up from older ones. */
  readOut(index) {
    const { series, read } = this.plot;
    show(
      this.legend,
      series.map(([label, color], position) => {
        const column = this.data[position + 1] ?? [];
        const value = column[index ?? column.length - 1];
        return el("span", {}, el("span", { class: "swatch", style: { background: `var(${color})` } }), `${label} `, el("b", {}, value === null || value === undefined ? unknown("nothing was measured") : read(value)));
      }),
    );
  }
}

function options(plot, width, onCursor) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: color("--muted"), grid: { stroke: color("--rule"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: SYNC, setSeries: false }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
    scales: { x: { time: true }, y: { range: (_, __, high) => [0, plot.top ?? (high > 0 ? high * 1.15 : 1)] } },
    axes: [
      { ...axis, space: 70, size: 26, values: (_, ticks, __, ___, step) => ticks.map((tick) => clock(new Date(tick * 1000)).slice(0, step < 60 ? 8 : 5)) },
      { ...axis, size: 58, space: 34, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0" : (plot.tick ?? plot.read)(tick))) },
    ],
    series: [
      {},
      ...plot.series.map(([label, name]) => ({
        label,
        stroke: color(name),
        width: 2,
        spanGaps: false,
        points: { show: true, filter: (chart, index) => lonely(chart.data[index]), size: 4, fill: color(name) },
        fill: plot.series.length === 1 ? `${color(name)}22` : undefined,
      })),
    ],
    hooks: { setCursor: [(chart) => onCursor(chart.cursor.idx)] },
  };
}

/** Indices of values with no neighbour: no line reaches them, so they need a dot to be seen. */
function lonely(column) {
  const missing = (index) => (column[index] ?? null) === null;
  return [...column.keys()].filter((index) => !missing(index) && missing(index - 1) && missing(index + 1));
}
