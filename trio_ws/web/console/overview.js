/** The overview: what all processes of the server measure, and what went wrong. */

import { Chart } from "./chart.js";
import { byId, element } from "./elements.js";
import { begin, HISTORY, level, parts, quantile, rate, readings, watchers } from "./figures.js";
import { title } from "./router.js";

const whole = (/** @type {number} */ value) => Math.round(value).toLocaleString();
const perSecond = (/** @type {number} */ value) => `${value < 10 ? value.toFixed(1) : whole(value)}/s`;
const milliseconds = (/** @type {number} */ value) => `${value < 10 ? value.toFixed(1) : whole(value)} ms`;
const seconds = (/** @type {number} */ value) => `${value < 10 ? value.toFixed(1) : whole(value)} s`;
const percent = (/** @type {number} */ value) => `${(100 * value).toFixed(0)} %`;
const bytes = (/** @type {number} */ value) =>
  value < 1024
    ? `${whole(value)} B`
    : value < 2 ** 20
      ? `${(value / 1024).toFixed(1)} KB`
      : `${(value / 2 ** 20).toFixed(0)} MB`;

/**
 * @type {[group: string, charts: [name: string, measure: import("./figures.js").Measure, show: (value:
 *   number) => string][]][]}
 */
const GROUPS = [
  [
    "Clients",
    [
      ["Connections", level("trio_ws_connections"), whole],
      ["Subscriptions", level("trio_ws_subscriptions"), whole],
      ["Opened", rate("trio_ws_connections_opened_total"), perSecond],
      ["Closed", rate("trio_ws_connections_closed_total"), perSecond],
    ],
  ],
  [
    "Events",
    [
      ["Events sent", rate("trio_ws_events_sent_total"), perSecond],
      ["Delay of events, median", quantile("trio_ws_event_lag_seconds", 0.5), milliseconds],
      ["Delay of events, 99th percentile", quantile("trio_ws_event_lag_seconds", 0.99), milliseconds],
      ["Unread by the slowest client", level("trio_ws_outbox_max_bytes"), bytes],
      ["Clients that fell behind", rate("trio_ws_catch_ups_total"), perSecond],
      ["Clients that resumed", rate("trio_ws_replays_total"), perSecond],
    ],
  ],
  [
    "Requests",
    [
      ["Requests", rate("trio_ws_requests_total"), perSecond],
      ["Requests that failed", (now, before) => failed(now, before), perSecond],
      ["Unhandled exceptions", level("trio_ws_unhandled_exceptions_total"), whole],
    ],
  ],
  [
    "Database",
    [
      ["Query time, 99th percentile", quantile("trio_ws_database_query_seconds", 0.99), milliseconds],
      [
        "Wait for the database, 99th percentile",
        quantile("trio_ws_database_pool_wait_seconds", 0.99),
        milliseconds,
      ],
      ["Queries that failed", rate("trio_ws_database_failures_total"), perSecond],
    ],
  ],
  [
    "Webhooks",
    [
      ["Waiting", level("trio_ws_webhooks_waiting"), whole],
      ["Oldest that waits", level("trio_ws_webhooks_oldest_age_seconds"), seconds],
      ["Dead endpoints", level("trio_ws_webhook_endpoints_dead"), whole],
    ],
  ],
  [
    "Processes",
    [
      ["Memory", level("process_resident_memory_bytes"), bytes],
      ["Processor", rate("process_cpu_seconds_total"), percent],
      ["File descriptors", level("process_open_fds"), whole],
    ],
  ],
];

/** @type {[name: string, figure: string][]} What is counted by reason. */
const REASONS = [
  ["Replies by code", "trio_ws_requests_total"],
  ["Closed connections by reason", "trio_ws_connections_closed_total"],
  ["Refused requests by status", "trio_ws_http_requests_rejected_total"],
  ["Refused connections by limit", "trio_ws_connections_rejected_total"],
  ["Webhook attempts by result", "trio_ws_webhook_attempts_total"],
];

/** @type {import("./figures.js").Measure} */
function failed(now, before) {
  const all = rate("trio_ws_requests_total")(now, before);
  const good = rate("trio_ws_requests_total:success")(now, before);
  return all === null || good === null ? null : Math.max(0, all - good);
}

/** @type {import("./router.js").Show} */
export function showOverview(main, { left }) {
  title("Overview");
  const about = element("p", { id: "process", class: "note", role: "status" });
  /** @type {{chart: Chart, measure: import("./figures.js").Measure}[]} */
  const charts = [];
  const groups = GROUPS.map(([group, found]) => {
    const made = found.map(([name, measure, show]) => ({ chart: new Chart(name, show, HISTORY), measure }));
    charts.push(...made);
    return element(
      "section",
      { "aria-label": group },
      element("h2", {}, group),
      element("div", { class: "figures" }, ...made.map(({ chart }) => chart.element)),
    );
  });
  const tables = REASONS.map(([name, figure]) => ({ figure, body: element("tbody"), name }));
  main.append(
    element("h1", {}, "Overview"),
    about,
    element("div", { id: "figures" }, ...groups),
    element(
      "section",
      { "aria-label": "Errors and reasons" },
      element("h2", {}, "Errors and reasons"),
      element(
        "div",
        { class: "figures" },
        ...tables.map(({ name, body }) =>
          element(
            "table",
            { class: "counts" },
            element("caption", {}, name),
            element(
              "thead",
              {},
              element(
                "tr",
                {},
                ...["", "2 min", "since start"].map((text) => element("th", { scope: "col" }, text)),
              ),
            ),
            body,
          ),
        ),
      ),
    ),
  );

  function draw() {
    const now = readings.at(-1);
    for (const { chart, measure } of charts) {
      chart.draw(
        readings.map((one, index) => {
          const before = readings[index - 1] ?? null;
          // A process that has been replaced counts from its own beginning.
          return one && measure(one, before && before.processes === one.processes ? before : null);
        }),
      );
    }
    for (const { figure, body } of tables) {
      body.replaceChildren(
        ...parts(figure).map(({ name, total, recent }) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, name),
            element("td", { class: "number" }, whole(recent)),
            element("td", { class: "number" }, whole(total)),
          ),
        ),
      );
    }
    if (!now) return;
    byId("version").textContent = now.version;
    const missing = now.missing ? `; ${now.missing} did not answer` : "";
    const which = now.processes.includes(",") ? "Sum of the processes" : "Process";
    about.textContent = `${which} ${now.processes}${missing}`;
  }
  watchers.add(draw);
  left.addEventListener("abort", () => watchers.delete(draw));
  begin();
  if (readings.length) draw();
}
