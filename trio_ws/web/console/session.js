/** Who we are to the server, and how it is reached: one client for the whole page, and the badge that says how it fares. */

import { connect } from "/trio-ws.js";
import { byId } from "./elements.js";

const TOKEN = "trio_ws.token"; // kept by the tab, and gone with it

export const token = sessionStorage.getItem(TOKEN) ?? undefined;

export const client = connect(undefined, { token });

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
  showLine("refused", token ? "this token is not good here" : "a token is needed");
  if (document.activeElement === document.body) byId("token").focus();
}

/** Have the form in the header change who we are; all that was asked before began anew is gone. */
export function minds() {
  byId("identity").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    become(byId("token").value.trim());
  });
  byId("forget").hidden = !token;
  byId("forget").addEventListener("click", () => become(""));
  if (token) byId("token").placeholder = "in use";
}

/** @param {string} given */
function become(given) {
  if (given) sessionStorage.setItem(TOKEN, given);
  else sessionStorage.removeItem(TOKEN);
  location.reload();
}
