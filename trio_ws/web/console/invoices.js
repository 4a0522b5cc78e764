/** Invoices: a list, and what is looked for in it. */

import { inWords } from "./amounts.js";
import { badge, element, link, time } from "./elements.js";
import { choice, field, filters, Listing, numberOf } from "./listing.js";
import { address, title } from "./router.js";
import { isOperator } from "./session.js";

const STATUSES = ["unpaid", "confirming", "paid", "expired", "cancelled"];
const UID = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i;

/** @type {import("./router.js").Show} */
export async function showInvoices(main, { query }) {
  title("Invoices");
  const form = filters(
    "invoices",
    query,
    [
      choice("status", "Status", [
        ["", "any"],
        .../** @type {[string, string][]} */ (STATUSES.map((one) => [one, one])),
      ]),
      choice("by", "Search in", [
        ["memo", "memos"],
        ["address", "addresses"],
      ]),
      field("q", "Search, or a uid", { type: "search", size: 24 }),
      ...(isOperator() ? [field("account", "Account", { inputmode: "numeric", size: 6 })] : []),
    ],
    ({ q = "" }) => (UID.test(q) ? address(`invoices/${q}`) : undefined),
  );
  const searched = { [query.get("by") ?? "memo"]: query.get("q") ?? "" };
  const list = new Listing(
    "list_invoices",
    { status: query.get("status") ?? "", ...searched, account_id: numberOf(query.get("account")) },
    [
      { name: "Created", show: ({ uid, createdAt }) => link(address(`invoices/${uid}`), time(createdAt)) },
      { name: "Status", show: ({ status }) => badge(status) },
      { name: "Amount", show: ({ amount, currency }) => inWords(amount, currency), isNumber: true },
      {
        name: "Paid",
        show: ({ amount_paid, currency }) => amount_paid && inWords(amount_paid, currency),
        isNumber: true,
      },
      { name: "Memo", show: ({ memo }) => memo && element("span", { class: "long" }, memo) },
      ...(isOperator()
        ? [
            {
              name: "Account",
              show: (/** @type {any} */ { account_id }) =>
                link(address("invoices", { account: account_id }), account_id),
              isNumber: true,
            },
          ]
        : []),
      { name: "Uid", show: ({ uid }) => element("code", {}, uid.slice(0, 8)) },
    ],
    "no invoices",
  );
  main.append(element("h1", {}, "Invoices"), form, list.element);
  await list.load();
}
