/** A customer's page follows its invoice, and is made anew by the server whenever the invoice has changed. */

import { connect } from "/trio-ws.js";

const uid = location.pathname.split("/").pop() ?? "";
const parser = new DOMParser();
// Where Trusted Types are enforced, this is the one way from text to markup: our own server's, of this page.
const policy = /** @type {any} */ (window).trustedTypes?.createPolicy("page", {
  createHTML: (/** @type {string} */ text) => text,
});

/** @param {string} id @returns {any} */
const byId = (id, within = document) => within.querySelector(`#${id}`);

/** Write amounts as in the customer's language. Currencies unknown to the browser stay as they are. */
function writeAmounts() {
  for (const money of /** @type {NodeListOf<HTMLDataElement>} */ (document.querySelectorAll("data"))) {
    const { currency } = money.dataset;
    const digits = money.value.split(".")[1]?.length ?? 0;
    if (!currency || !Intl.supportedValuesOf("currency").includes(currency)) continue;
    const fraction = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    const format = new Intl.NumberFormat(undefined, { style: "currency", currency, ...fraction });
    money.textContent = format.format(/** @type {any} */ (money.value));
  }
}

/** Count down from what the server said, whatever this machine's clock says. */
function countDown() {
  const left = byId("left");
  if (!left) return;
  const end = performance.now() + 1000 * Number(left.dataset.seconds);
  const tick = () => {
    if (!left.isConnected) return;
    const seconds = Math.max(0, Math.round((end - performance.now()) / 1000));
    left.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    if (seconds) setTimeout(tick, 1000);
  };
  tick();
}

function offerToCopy() {
  const button = byId("copy");
  if (!button || !navigator.clipboard) return; // not on a page without TLS
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("address").textContent);
    button.textContent = "Copied";
  });
}

function show() {
  writeAmounts();
  countDown();
  offerToCopy();
}

/** Take over what the server says now. */
async function refresh() {
  const response = await fetch(location.pathname, { cache: "no-store" });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const text = await response.text();
  const page = parser.parseFromString(policy ? policy.createHTML(text) : text, "text/html");
  const focused = document.activeElement?.id;
  const [status, now] = [byId("status"), byId("status", page)];
  if (status.textContent !== now.textContent) status.textContent = now.textContent; // which is read out
  status.dataset.status = now.dataset.status;
  document.title = page.title;
  byId("invoice").replaceChildren(...byId("invoice", page).childNodes);
  show();
  if (focused) byId(focused)?.focus();
}

/** Refresh, and try again where that fails: the server may be away for a while. */
async function refreshPatiently() {
  for (let pause = 500; ; pause = Math.min(2 * pause, 10000)) {
    try {
      return await refresh();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

/** Follow the invoice, for as long as the page is open. */
async function follow() {
  const url = new URL("/", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const onState = (/** @type {string} */ state) => {
    byId("line").hidden = state !== "lost";
  };
  for await (const _ of connect(url.href).watch("invoice", uid, { onState })) await refreshPatiently();
}

show();
if (byId("status").dataset.status !== "unknown") await follow(); // else there is no such invoice
