/** What all processes of the server measure, asked for each second, and kept for the last two minutes. */

import { ask, showLine } from "./session.js";

const PAUSE_MS = 1000;
export const HISTORY = 120; // readings

/**
 * @typedef {{at: number, processes: string, missing: number, version: string, values: Record<string,
 *   number>}} Reading  `at` in ms.
 */
/** @typedef {(now: Reading, before: Reading | null) => number | null} Measure */

/** @type {(Reading | null)[]} The last readings, the newest last; null: the server could not be asked. */
export const readings = [];

/** @type {Set<() => void>} Called after each reading. */
export const watchers = new Set();

/** @param {string} name @returns {Measure} */
export const level = (name) => (now) => now.values[name] ?? 0;

/** @param {string} name @returns {Measure} In a second. */
export const rate = (name) => (now, before) =>
  before && (1000 * ((now.values[name] ?? 0) - (before.values[name] ?? 0))) / (now.at - before.at);

/**
 * How long what lay between two readings took at most, for a share of it: in the bucket that holds it, in ms.
 * @param {string} name  Of a histogram.
 * @param {number} share
 * @returns {Measure}
 */
export const quantile = (name, share) => (now, before) => {
  if (!before) return null;
  const prefix = `${name}_bucket:`;
  const buckets = Object.keys(now.values)
    .filter((key) => key.startsWith(prefix))
    .map((key) => ({
      upTo: Number(key.slice(prefix.length).replace("+Inf", "Infinity")),
      count: now.values[key] - (before.values[key] ?? 0),
    }))
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

/**
 * The parts of a figure, the largest first.
 * @param {string} name
 * @returns {{name: string, total: number, recent: number}[]}  `recent`: within the readings that are kept.
 */
export function parts(name) {
  const prefix = `${name}:`;
  const known = readings.filter((one) => one !== null);
  const now = known.at(-1);
  if (!now) return [];
  const first = known.find((one) => one.processes === now.processes) ?? now;
  return Object.keys(now.values)
    .filter((key) => key.startsWith(prefix))
    .map((key) => ({
      name: key.slice(prefix.length),
      total: now.values[key],
      recent: now.values[key] - (first.values[key] ?? 0),
    }))
    .sort((one, other) => other.total - one.total);
}

/** @returns {Promise<Reading | null>} */
async function read() {
  try {
    const { data } = await ask("fetch_figures");
    showLine("open", "live");
    return { ...data, at: performance.now(), processes: data.processes.join(", ") };
  } catch {
    return null; // `session` says why
  }
}

let isRunning = false;

/** Read for as long as the console is open: who comes back to the overview finds the minutes between. */
export async function begin() {
  if (isRunning) return;
  isRunning = true;
  for (;;) {
    readings.push(await read());
    if (readings.length > HISTORY) readings.shift();
    for (const watcher of watchers) watcher();
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
