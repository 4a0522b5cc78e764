/**
 * Who we are to the server, and how it is reached: one client for the whole console, and the badge that says
 * how it fares.
 */

import { connect } from "/trio-ws.js";
import { byId } from "./elements.js";

const TOKEN = "trio_ws.token"; // kept by the tab, and gone with it; empty: its user signed out
const UNAUTHORIZED = 4401; // the protocol's section 6
const ANSWER_MS = 200; // for other tabs of this console, which may know the token

/** @type {any} Asks; made by `begin`. */
export let client;

/**
 * @type {{account_id: number | null, scopes: string[], isOpen: boolean} | null} Who we are; null: nobody
 *   whom the server knows.
 */
export let identity = null;

/** @type {string | undefined} */
let token;

/** @param {string} scope Whether we may do what takes that scope. */
export const may = (scope) =>
  identity !== null &&
  (identity.isOpen || identity.scopes.includes(scope) || identity.scopes.includes("admin"));

/** Whether we see all accounts. */
export const isOperator = () => identity !== null && identity.account_id === null;

/**
 * Say how the server is reached.
 * @param {string} state  `connecting`, `open`, `lost` or `refused`.
 * @param {string} text
 */
export function showLine(state, text) {
  const line = byId("line");
  if (line.textContent === text) return; // or a screen reader would say it each second
  line.dataset.state = state;
  line.textContent = text;
}

/** Ask for a token: the server wants one. */
export function askForToken() {
  showLine("refused", token ? "this token is not valid here" : "a token is needed");
  byId("signing-in").open = true;
  if (document.activeElement === document.body) byId("token").focus();
}

/**
 * Do an action, and return its reply.
 * @param {string} action
 * @param {Record<string, any>} [fields]  What is undefined or empty is left out.
 * @returns {Promise<any>}
 * @throws {Error}  The server refused it, or could not be reached.
 */
export async function ask(action, fields = {}) {
  const given = Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined && value !== ""),
  );
  const reply = await client.request(action, given);
  if (reply.status !== "error") return reply;
  if (reply.code === "unauthorized") askForToken();
  throw Object.assign(new Error([reply.message, reply.detail].filter(Boolean).join(": ")), {
    code: reply.code,
  });
}

/**
 * Find out who we are. Resolves once that is known, or once a token is asked for.
 * @returns {Promise<boolean>}
 */
export async function begin() {
  token = sessionStorage.getItem(TOKEN) ?? (await askOtherTabs());
  if (token) sessionStorage.setItem(TOKEN, token);
  const channel = new BroadcastChannel(TOKEN);
  channel.onmessage = ({ data }) => {
    if (data.wanted && token) channel.postMessage({ token });
  };
  client = connect(undefined, {
    token,
    onState(/** @type {string} */ state, /** @type {any} */ { code, reason }) {
      if (state === "open") showLine("open", "live");
      else if (state === "lost") showLine("lost", "the server can't be reached; trying again");
      else if (code === UNAUTHORIZED)
        askForToken(); // it has expired or been revoked
      else if (state === "refused") showLine("refused", [code, reason].filter(Boolean).join(" "));
    },
  });
  mindForm();
  for (;;) {
    try {
      identity = await whoWeAre();
      break;
    } catch (error) {
      if (/** @type {any} */ (error).code === "unauthorized") {
        askForToken();
        return false;
      }
      showLine("lost", "the server can't be reached; trying again");
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
  showLine("open", "live");
  if (!identity.isOpen)
    byId("who").textContent = identity.account_id === null ? "Operator" : `Account ${identity.account_id}`;
  return true;
}

async function whoWeAre() {
  if (!token) {
    await ask("list_accounts", { limit: 1 });
    return { account_id: null, scopes: [], isOpen: true };
  }
  const { data } = await ask("authenticate", { token });
  return { account_id: data.account_id, scopes: data.scopes, isOpen: false };
}

/** Return the token that another tab uses, so that a link opened in a new one does not ask for it again. */
async function askOtherTabs() {
  const channel = new BroadcastChannel(TOKEN);
  try {
    return await new Promise((resolve) => {
      channel.onmessage = ({ data }) => data.token && resolve(data.token);
      channel.postMessage({ wanted: true });
      setTimeout(resolve, ANSWER_MS);
    });
  } finally {
    channel.close();
  }
}

function mindForm() {
  byId("identity").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    become(byId("token").value.trim());
  });
  byId("forget").hidden = !token;
  byId("forget").addEventListener("click", () => become(""));
}

/** @param {string} given */
function become(given) {
  sessionStorage.setItem(TOKEN, given);
  location.reload();
}
