/** The console: a page for each kind of thing, found by its address. */

import { byId, link } from "./elements.js";
import { showAccounts, showTokens } from "./accounts.js";
import { showConnections } from "./connections.js";
import { showInvoice } from "./invoice.js";
import { showInvoices } from "./invoices.js";
import { showLive } from "./live.js";
import { showOverview } from "./overview.js";
import { address, begin, go, page } from "./router.js";
import * as session from "./session.js";
import { showTry } from "./try.js";
import { showWebhook, showWebhooks } from "./webhooks.js";

/** @type {[name: string, text: string, show: import("./router.js").Show][]} */
const PAGES = [
  ["", "Overview", showOverview],
  ["invoices", "Invoices", (main, place) => (place.path.length ? showInvoice : showInvoices)(main, place)],
  ["webhooks", "Webhooks", (main, place) => (place.path.length ? showWebhook : showWebhooks)(main, place)],
  ["connections", "Connections", showConnections],
  ["accounts", "Accounts", showAccounts],
  ["tokens", "Tokens", showTokens],
  ["live", "Live", showLive],
  ["try", "Try", showTry],
];

if (await session.begin()) {
  for (const [name, text, show] of PAGES) {
    if (name === "" && !session.may("admin")) continue; // what the server measures is the operator's
    page(name, show);
    byId("pages").append(link(address(name), text));
    byId("pages").lastElementChild.dataset.page = name;
  }
  if (!session.may("admin")) page("", () => go(address("invoices"), { replace: true }));
  // as it was called once
  page("invoice", (_, { path }) => go(address(`invoices/${path[0] ?? ""}`), { replace: true }));
  begin();
}
