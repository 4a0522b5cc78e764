/** What the server measures, asked for each second and drawn over the last two minutes. */

import { byId, drawn, element } from "./elements.js";
import { askForToken, showLine, token } from "./session.js";

const PAUSE_MS = 1000;
const PATIENCE_MS = 3000; // then the server is as good as away
const HISTORY = 120; // points

/** @typedef {Record<string, number> & {at: number}} Reading  What was measured, and when, in ms. */

/** @param {string} name @returns {(now: Reading) => number} */
const level = (name) => (now) => now[name] ?? 0;

/** @param {string} name @returns {(now: Reading, before: Reading) => number} In a second. */
const rate = (name) => (now, before) => (1000 * ((now[name] ?? 0) - (before[name] ?? 0))) / (now.at - before.at);

/**
 * How long what lay between two readings took at most, for a share of it: in the bucket that holds it, in ms.
 * @param {string} name  Of a histogram.
 * @param {number} share
 * @returns {(now: Reading, before: Reading) => number | null}
 */
const quantile = (name, share) => (now, before) => {
  const prefix = `${name}_bucket:`;
  const buckets = Object.keys(now)
    .filter((key) => key.startsWith(prefix))
    .map((key) => ({ upTo: Number(key.slice(prefix.length).replace("+Inf", "Infinity")), count: now[key] - before[key] }))
    .sort((one, other) => one.upTo - other.upTo);
  const all = buckets.at(-1)?.count ?? 0;
  if (all === 0) return null;
  let from = 0;
  let below = 0;
  for (const { upTo, count } of buckets) {
    if (count >= share * all) {
      const within = (share * all - below) / (count - below);
      return 1000 * (upTo === Infinity ? from : from + within * (upTo - from));
    }
    [from, below] = [upTo, count];
  }
  return null;
};

const whole = (/** @type {number} */ value) => Math.round(value).toLocaleString();
const perSecond = (/** @type {number} */ value) => `${value < 10 ? value.toFixed(1) : whole(value)}/s`;
const milliseconds = (/** @type {number} */ value) => `${value.toFixed(1)} ms`;
const bytes = (/** @type {number} */ value) => (value < 1024 ? `${whole(value)} B` : `${(value / 1024).toFixed(1)} KB`);

const CHARTS = [
  { name: "Connections", measure: level("trio_ws_connections"), show: whole },
  { name: "Topics followed", measure: level("trio_ws_subscriptions"), show: whole },
  { name: "Events told", measure: rate("trio_ws_events_sent_total"), show: perSecond },
  { name: "Requests", measure: rate("trio_ws_requests_total"), show: perSecond },
  { name: "Commit to frame, median", measure: quantile("trio_ws_lag_seconds", 0.5), show: milliseconds },
  { name: "Commit to frame, 99 %", measure: quantile("trio_ws_lag_seconds", 0.99), show: milliseconds },
  { name: "Waiting in outboxes", measure: level("trio_ws_outbox_bytes"), show: bytes },
  { name: "Waiting for the slowest", measure: level("trio_ws_outbox_most_bytes"), show: bytes },
  { name: "Fell behind, read on from the log", measure: rate("trio_ws_catch_ups_total"), show: perSecond },
  { name: "Came back for what they missed", measure: rate("trio_ws_replays_total"), show: perSecond },
  { name: "Position in the log", measure: level("trio_ws_log_position"), show: whole },
  { name: "Memory of the process", measure: level("process_resident_memory_bytes"), show: (/** @type {number} */ v) => `${(v / 2 ** 20).toFixed(0)} MB` },
];

/** One measurement over time; where there was none, the line is broken. */
class Chart {
  /** @param {typeof CHARTS[number]} what */
  constructor(what) {
    this.what = what;
    /** @type {(number | null)[]} */
    this.points = [];
    this.value = element("output", {}, "–");
    this.path = drawn("path");
    this.drawing = drawn("svg", { viewBox: `0 0 ${HISTORY} 40`, preserveAspectRatio: "none", role: "img" }, this.path);
    this.figure = element("figure", {}, element("figcaption", {}, what.name), this.value, this.drawing);
  }

  /** @param {number | null} point */
  add(point) {
    this.points = [...this.points, point].slice(-HISTORY);
    const most = Math.max(...this.points.map((one) => one ?? 0));
    const y = (/** @type {number} */ one) => (38 - (most ? (36 * one) / most : 0)).toFixed(1);
    const begin = HISTORY - this.points.length;
    let pen = "M";
    const steps = this.points.map((one, index) => {
      if (one === null) {
        pen = "M";
        return "";
      }
      const step = `${pen}${begin + index} ${y(one)}`;
      pen = "L";
      return step;
    });
    this.path.setAttribute("d", steps.join(""));
    this.value.textContent = point === null ? "–" : this.what.show(point);
    this.drawing.setAttribute("aria-label", `${this.what.name}, the last two minutes: at most ${this.what.show(most)}`);
  }
}

/** @returns {Promise<any>} What the server measured; null: it can't be reached. */
async function read() {
  const response = await fetch("/console/figures", {
    headers: token ? { Authorization: `Bearer ${token}` } : {},
    signal: AbortSignal.timeout(PATIENCE_MS),
  }).catch(() => null);
  if (response?.status === 401) askForToken();
  else if (!response) showLine("lost", "the server can't be reached; trying again");
  else if (!response.ok) showLine("lost", `the server answers ${response.status}; trying again`);
  else showLine("open", "live");
  return response?.ok ? { ...(await response.json()), at: performance.now() } : null;
}

/** Draw, for as long as the page is there. */
export async function drawFigures() {
  const charts = CHARTS.map((what) => new Chart(what));
  byId("figures").append(...charts.map((chart) => chart.figure));
  let before = null;
  for (;;) {
    const now = await read().catch(() => null);
    // Another process, after a restart or beside this one, counts from its own beginning.
    const comparable = now && before && now.process === before.process;
    for (const chart of charts) {
      const isLevel = chart.what.measure.length === 1;
      const point = now && (comparable || isLevel) ? chart.what.measure(now, before) : null;
      chart.add(point);
    }
    if (now) {
      byId("version").textContent = now.version;
      byId("process").textContent = `of process ${now.process}`;
    }
    before = now;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
