// Numbers as people read them. Money comes in as integer nano-dollars, a BigInt where it is beyond 2^53.

import { el } from "./dom.js";

const NANO = 1e9;
let currency = "USD";

/** Sets the ledger's currency for every amount shown from now on. */
export function setCurrency(code) {
  currency = code;
}

/** Parses JSON without losing digits of integers beyond 2^53 (about nine million dollars in nano-dollars). */
export function parseExact(text) {
  return JSON.parse(text, (key, value, context) =>
    typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source
      ? BigInt(context.source)
      : value,
  );
}

/** What stands for a number nobody knows: an em dash that says why. Never 0. */
export function unknown(why) {
  return el("span", { class: "unknown", title: `Unknown: ${why}`, "aria-label": `unknown: ${why}` }, "—");
}

/** `shown(value)`, or the em dash when the value is null. */
export function known(value, shown, why) {
  return value === null || value === undefined ? unknown(why) : shown(value);
}

/** An amount rounded for reading: cents, and more decimals below a dollar. */
export function money(nano) {
  const dollars = Number(nano) / NANO;
  const size = Math.abs(dollars);
  const digits = size >= 1 || size === 0 ? 2 : size >= 0.1 ? 3 : 4;
  if (size > 0 && size < 0.00005) return dollars > 0 ? `<${symbol(0.0001, 4)}` : `>-${symbol(0.0001, 4)}`;
  return symbol(dollars, digits);
}

/** A price on an axis: three significant digits. */
export function price(dollars) {
  return new Intl.NumberFormat("en-US", { style: "currency", currency, currencyDisplay: "narrowSymbol", minimumFractionDigits: 0, maximumSignificantDigits: 3 }).format(dollars);
}

function symbol(dollars, digits) {
  return new Intl.NumberFormat("en-US", {
    style: "currency",
    currency,
    currencyDisplay: "narrowSymbol",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(dollars);
}

/** All nine decimals of an amount, as text: "1,234.567890123". */
export function exactText(nano) {
  const amount = BigInt(nano);
  const size = amount < 0n ? -amount : amount;
  const whole = (size / 1_000_000_000n).toLocaleString("en-US");
  const rest = String(size % 1_000_000_000n).padStart(9, "0");
  return `${amount < 0n ? "-" : ""}${whole}.${rest}`;
}

/** All nine decimals, with those below a cent set back. */
export function exact(nano) {
  const text = exactText(nano);
  const cents = text.length - 7;
  return el("span", { class: "exact" }, text.slice(0, cents), el("span", { class: "fine" }, text.slice(cents)));
}

/** A count with thousands separators; short form (12.3M) from ten thousand on when `compact`. */
export function count(value, compact = false) {
  const short = compact && Math.abs(Number(value)) >= 10_000;
  return new Intl.NumberFormat("en-US", short ? { notation: "compact", maximumFractionDigits: 1 } : { maximumFractionDigits: 0 }).format(value);
}

/** A measured number with about three digits. */
export function measure(value) {
  const size = Math.abs(value);
  return new Intl.NumberFormat("en-US", { maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : 2 }).format(value);
}

/** A share of 1 as per cent; a sliver that is not nothing says so. */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.05) return "<0.1 %";
  return `${value.toFixed(Math.abs(value) >= 99.95 || value === 0 ? 0 : 1)} %`;
}

/** Seconds in the unit that suits them. */
export function duration(seconds) {
  if (seconds < 1) return `${measure(seconds * 1000)} ms`;
  if (seconds < 120) return `${measure(seconds)} s`;
  return seconds < 7200 ? `${measure(seconds / 60)} min` : `${measure(seconds / 3600)} h`;
}

/** Time of day of the reader's clock. */
export function clock(date) {
  return date.toLocaleTimeString("en-GB");
}
