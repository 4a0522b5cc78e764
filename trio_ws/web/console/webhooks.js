/** Webhooks: what waits, what failed, what was delivered; one of them with what is sent. */

import { badge, button, copier, definitions, drawAgain, element, link, pretty, time } from "./elements.js";
import { choice, field, filters, Listing, numberOf } from "./listing.js";
import { address, title, trouble } from "./router.js";
import { ask, isOperator, may } from "./session.js";

/** @type {import("./router.js").Show} */
export async function showWebhooks(main, { query }) {
  title("Webhooks");
  const form = filters("webhooks", query, [
    choice("state", "State", [
      ["", "waiting or failed"],
      ["waiting", "waiting"],
      ["failed", "failed"],
      ["delivered", "delivered"],
    ]),
    field("invoice", "Invoice", { placeholder: "uid", size: 36 }),
    ...(isOperator() ? [field("account", "Account", { inputmode: "numeric", size: 6 })] : []),
  ]);
  const list = new Listing(
    "list_webhooks",
    {
      state: query.get("state") ?? "",
      uid: query.get("invoice") ?? "",
      account_id: numberOf(query.get("account")),
    },
    [
      { name: "Queued", show: ({ id, queuedAt }) => link(address(`webhooks/${id}`), time(queuedAt)) },
      { name: "State", show: ({ state }) => badge(state) },
      { name: "Event", show: ({ type }) => type },
      {
        name: "Invoice",
        show: ({ invoice }) => link(address(`invoices/${invoice}`), element("code", {}, invoice.slice(0, 8))),
      },
      { name: "Endpoint", show: ({ endpoint }) => element("span", { class: "long" }, endpoint) },
      ...(isOperator()
        ? [{ name: "Account", show: (/** @type {any} */ { account_id }) => account_id, isNumber: true }]
        : []),
      { name: "Attempts", show: ({ attempts }) => attempts, isNumber: true },
      { name: "Last answer", show: answer },
      {
        name: "Next attempt",
        show: (webhook) =>
          webhook.is_behind
            ? "after an older one of its invoice"
            : webhook.nextAttemptAt && time(webhook.nextAttemptAt),
      },
    ],
    "no webhooks",
  );
  main.append(element("h1", {}, "Webhooks"), form, list.element);
  await list.load();
}

/** @param {any} webhook What the receiver said last. */
function answer({ status, error }) {
  return error ?? status;
}

/** @type {import("./router.js").Show} */
export async function showWebhook(main, { path: [id] }) {
  title("Webhook");
  const section = element("section");
  const problem = element("div");
  main.append(
    element("p", {}, link(address("webhooks"), "← Webhooks")),
    element("h1", {}, "Webhook"),
    problem,
    section,
  );

  /** @param {() => Promise<any>} act */
  async function attempt(act) {
    problem.replaceChildren();
    await act().catch((error) => problem.replaceChildren(trouble(error)));
  }
  async function retry() {
    await ask("retry_webhook", { id });
    await load();
  }
  async function load() {
    const { data: webhook } = await ask("fetch_webhook", { id });
    const state = element(
      "p",
      { class: "badge large", role: "status", "data-state": webhook.state, tabindex: -1 },
      webhook.state,
    );
    drawAgain(
      section,
      () =>
        section.replaceChildren(
          state,
          definitions({
            Delivery: element("span", {}, element("code", {}, webhook.id), " ", copier(webhook.id)),
            Event: webhook.type,
            Invoice: link(address(`invoices/${webhook.invoice}`), element("code", {}, webhook.invoice)),
            Account: webhook.account_id,
            URL: webhook.url,
            Attempts: webhook.attempts,
            "Last answer": answer(webhook),
            Queued: time(webhook.queuedAt),
            "Next attempt": webhook.is_behind
              ? "after an older one of its invoice"
              : webhook.nextAttemptAt && time(webhook.nextAttemptAt),
            Ended: webhook.endedAt && time(webhook.endedAt),
          }),
          element(
            "p",
            { class: "buttons" },
            ...(may("write") && webhook.state !== "held"
              ? [button(webhook.state === "delivered" ? "Send again" : "Retry now", () => attempt(retry))]
              : []),
            button("Refresh", () => attempt(load)),
          ),
          element("h2", {}, "Body"),
          element("pre", { tabindex: 0 }, pretty(webhook.body)),
        ),
      state,
    );
  }
  await load();
}
