/** One invoice, as it is now and as it changes. */

import { inWords } from "./amounts.js";
import { byId, element, note } from "./elements.js";
import { tell } from "./following.js";
import { askForToken, client, showLine } from "./session.js";

const FINAL = ["paid", "expired", "cancelled"];

/** The page of one invoice. */
class InvoicePage {
  /** @param {string} uid */
  constructor(uid) {
    this.uid = uid;
    this.status = "";
  }

  /** @param {any} invoice */
  show(invoice) {
    this.status = invoice.status;
    byId("invoice-trouble").hidden = true;
    byId("invoice-status").dataset.status = invoice.status;
    byId("invoice-status").textContent = invoice.status;
    byId("invoice-amount").textContent = inWords(invoice.amount, invoice.currency);
    document.title = `${invoice.status} – invoice ${invoice.id}`;
    byId("invoice-fields").replaceChildren(
      ...Object.entries(invoice).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]),
    );
    const may = { confirming: invoice.status === "unpaid", paid: invoice.status === "confirming", cancel: invoice.status === "unpaid" };
    for (const button of byId("invoice-actions").elements) button.disabled = !may[/** @type {keyof typeof may} */ (button.value)];
    byId("invoice-actions").hidden = FINAL.includes(invoice.status);
  }

  /** @param {any} trouble */
  complain(trouble) {
    byId("invoice-trouble").textContent = [trouble.message, trouble.detail].filter(Boolean).join(": ");
    byId("invoice-trouble").hidden = false;
    if (trouble.code === "unauthorized") askForToken();
  }

  /** @param {import("/trio-ws.js").State} state @param {import("/trio-ws.js").Detail} detail */
  onState(state, detail) {
    const told = tell(state, detail);
    if (told) note(byId("history"), told[0], told[1]);
    showLine(state, state === "open" ? "live" : told ? told[1] : state);
    if (detail.isGap) note(byId("history"), "gap", "something may have been missed: read again");
    if (state === "open" && !this.status) {
      byId("invoice-status").textContent = "unknown";
      this.complain({ message: "Invoice not found" });
    }
  }

  async watch() {
    try {
      for await (const invoice of client.watch("invoice", this.uid, { onState: this.onState.bind(this) })) {
        const change = ` ${this.status} → ${invoice.status}`;
        if (this.status) note(byId("history"), "event", element("b", {}, `version ${invoice.version}`), change);
        this.show(invoice);
      }
    } catch (error) {
      this.complain(error);
    }
  }

  /** @param {any} button */
  async press(button) {
    try {
      if (button.name === "cancel") await client.call("cancel_invoice", { uid: this.uid });
      else await client.call("update_invoice", { uid: this.uid, status: button.value });
    } catch (error) {
      this.complain(error);
    }
  }
}

/** Show the invoice and follow it. @param {string} uid */
export function showInvoice(uid) {
  const page = new InvoicePage(uid);
  byId("invoice-actions").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    page.press(event.submitter);
  });
  page.watch();
}
