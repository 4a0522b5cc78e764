/** One invoice: as it is now and as it changes, its payments, its history and its webhooks. */

import { inWords } from "./amounts.js";
import {
  badge,
  button,
  copier,
  definitions,
  drawAgain,
  element,
  link,
  pretty,
  question,
  time,
} from "./elements.js";
import { Listing } from "./listing.js";
import { address, title, trouble } from "./router.js";
import { ask, client, isOperator, may } from "./session.js";

/** What may be done by hand: the status that it takes, the scope, and what the button says. */
const STEPS = [
  { from: "unpaid", to: "confirming", scope: "process", text: "Payment seen: confirming" },
  { from: "confirming", to: "paid", scope: "process", text: "Payment confirmed: paid" },
];

/** @type {import("./router.js").Show} */
export async function showInvoice(main, { path: [uid], left }) {
  title("Invoice");
  const status = element(
    "p",
    { id: "invoice-status", class: "badge large", role: "status", "data-state": "unknown", tabindex: -1 },
    "loading",
  );
  const amount = element("p", { id: "invoice-amount", class: "amount" });
  const fields = element("div", { id: "invoice-fields" });
  const actions = element("p", { id: "invoice-actions", class: "buttons" });
  const problem = element("div", { id: "invoice-trouble" });
  const lists = [payments(uid), history(uid), webhooks(uid)];
  const sections = ["Payments", "History", "Webhooks"].map((name, index) =>
    element("section", { "aria-label": name, hidden: true }, element("h2", {}, name), lists[index].element),
  );
  main.append(
    element("p", {}, link(address("invoices"), "← Invoices")),
    element("h1", {}, "Invoice"),
    element(
      "div",
      { class: "cards" },
      element("section", {}, status, amount, problem, fields, actions),
      ...sections,
    ),
  );

  /** @param {any} error */
  const complain = (error) => problem.replaceChildren(trouble(error));
  /** @param {() => Promise<any>} act */
  const attempt = async (act) => {
    problem.replaceChildren();
    await act().catch(complain);
  };
  const cancel = () =>
    attempt(async () => {
      if (
        await question("Cancel this invoice?", "A cancelled invoice stays cancelled.", "Cancel the invoice")
      )
        await ask("cancel_invoice", { uid });
    });

  /** @param {any} invoice */
  function show(invoice) {
    status.dataset.state = invoice.status;
    status.textContent = invoice.status;
    amount.textContent = inWords(invoice.amount, invoice.currency);
    title(`${invoice.status} ${amount.textContent}`);
    problem.replaceChildren();
    fields.replaceChildren(
      definitions({
        Paid: invoice.amount_paid && inWords(invoice.amount_paid, invoice.currency),
        Pending: invoice.amount_pending && inWords(invoice.amount_pending, invoice.currency),
        Uid: element("span", {}, element("code", {}, invoice.uid), " ", copier(invoice.uid)),
        Number: invoice.id,
        Account: isOperator()
          ? link(address("invoices", { account: invoice.account_id }), invoice.account_id)
          : invoice.account_id,
        Memo: invoice.memo,
        Address:
          invoice.address &&
          element("span", {}, element("code", {}, invoice.address), " ", copier(invoice.address)),
        Created: time(invoice.createdAt),
        Changed: time(invoice.updatedAt),
        Expires: invoice.expiresAt && time(invoice.expiresAt),
        "Webhooks go to": invoice.webhook_url,
        "Customers return to": invoice.redirect_url,
        Version: invoice.version,
      }),
    );
    const steps = STEPS.filter(({ from, scope }) => from === invoice.status && may(scope));
    drawAgain(
      actions,
      () =>
        actions.replaceChildren(
          ...steps.map(({ to, text }) =>
            button(text, () => attempt(() => ask("update_invoice", { uid, status: to }))),
          ),
          ...(invoice.status === "unpaid" && may("write") ? [button("Cancel…", cancel)] : []),
          link(address("live", { topic: `invoice:${uid}` }), "Watch it live"),
        ),
      status,
    );
    for (const section of sections) section.hidden = false;
    for (const list of lists) list.reload();
  }

  let isKnown = false;
  const watching = client.watch("invoice", uid, {
    onState(/** @type {string} */ state) {
      if (state === "open" && !isKnown) {
        status.textContent = "unknown";
        complain({ message: "Invoice not found" });
      }
    },
  });
  left.addEventListener("abort", () => watching.close());
  try {
    for await (const invoice of watching) {
      isKnown = true;
      show(invoice);
    }
  } catch (error) {
    complain(error);
  }
}

/** @param {string} uid */
function payments(uid) {
  return new Listing(
    "list_payments",
    { uid },
    [
      { name: "Recorded", show: ({ createdAt }) => time(createdAt) },
      { name: "Status", show: ({ status }) => badge(status) },
      { name: "Amount", show: ({ amount, currency }) => inWords(amount, currency), isNumber: true },
      { name: "Reference", show: ({ reference }) => element("span", { class: "long" }, reference) },
    ],
    "no payments",
  );
}

/** @param {any} event What changed, in a few words. */
function change({ type, data, previous }) {
  if (type.startsWith("payment.")) {
    const before = previous?.status ? `${previous.status} → ` : "";
    return `${inWords(data.amount, data.currency)} ${before}${data.status}`;
  }
  if (!previous) return data.status;
  return Object.keys(previous)
    .map((name) => {
      if (name === "status") return `${previous.status} → ${data.status}`;
      const word = { amount_paid: "paid", amount_pending: "pending" }[name];
      return word ? `${word} ${inWords(data[name] ?? 0, data.currency)}` : name;
    })
    .join(", ");
}

/** @param {string} uid */
function history(uid) {
  return new Listing(
    "list_events",
    { uid },
    [
      { name: "When", show: ({ data }) => time(data.updatedAt) },
      { name: "Event", show: ({ type }) => type },
      {
        name: "Change",
        show: (event) =>
          element(
            "details",
            {},
            element("summary", {}, change(event)),
            element("pre", { tabindex: 0 }, pretty(event)),
          ),
      },
    ],
    "the log holds no events of it any more",
  );
}

/** @param {string} uid */
function webhooks(uid) {
  return new Listing(
    "list_webhooks",
    { uid },
    [
      { name: "Queued", show: ({ id, queuedAt }) => link(address(`webhooks/${id}`), time(queuedAt)) },
      { name: "Event", show: ({ type }) => type },
      { name: "State", show: ({ state }) => badge(state) },
      { name: "Answer", show: ({ status, error }) => error ?? status },
    ],
    "no webhooks",
  );
}
