/**
 * What the address names is shown: pages by path, what they look for in the query, both kept by back and
 * forward.
 */

import { byId, element } from "./elements.js";

/**
 * @typedef {object} Place  What the address says.
 * @property {string[]} path  Its parts after /console.
 * @property {URLSearchParams} query
 * @property {AbortSignal} left  Aborted when another page is shown.
 *
 * @typedef {(main: any, place: Place) => void | Promise<void>} Show
 */

/** @type {Map<string, Show>} */
const pages = new Map();
let leaving = new AbortController();

/** Have a page be shown where a path begins with its name. @param {string} name @param {Show} show */
export function page(name, show) {
  pages.set(name, show);
}

/**
 * Go to another address of the console. Resolves once its page is drawn.
 * @param {string} href
 * @param {{replace?: boolean}} [how]
 */
export function go(href, { replace = false } = {}) {
  if (replace) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  return showPlace({ isNew: !replace });
}

/**
 * An address of the console.
 * @param {string} path
 * @param {Record<string, any>} [query] What is empty is left out.
 */
export function address(path, query = {}) {
  const given = Object.entries(query).filter(
    ([, value]) => value !== undefined && value !== null && value !== "",
  );
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `/console${path && `/${path}`}${text && `?${text}`}`;
}

/** Show the address that there is, and each one that is gone to. */
export function begin() {
  addEventListener("popstate", () => showPlace({ isNew: true }));
  document.addEventListener("click", (event) => {
    const anchor = /** @type {Element} */ (event.target).closest?.("a[href]");
    if (
      !anchor ||
      event.defaultPrevented ||
      event.button ||
      event.ctrlKey ||
      event.metaKey ||
      event.shiftKey ||
      event.altKey
    )
      return;
    const to = new URL(/** @type {any} */ (anchor).href);
    if (to.origin !== location.origin || !/^\/console(\/|$)/.test(to.pathname) || to.hash) return;
    event.preventDefault();
    go(to.pathname + to.search);
  });
  showPlace({ isNew: false });
}

/**
 * @param {{isNew: boolean}} how Whether the reader goes to another page, and reads it from its heading on.
 */
async function showPlace({ isNew }) {
  leaving.abort();
  byId("question").close("no"); // it was asked on the page that is left
  leaving = new AbortController();
  const { signal } = leaving;
  const path = location.pathname.split("/").slice(2).filter(Boolean).map(decoded);
  const name = pages.has(path[0] ?? "") ? (path[0] ?? "") : "nothing";
  for (const anchor of document.querySelectorAll("#pages a")) {
    const isHere = anchor.getAttribute("data-page") === name;
    if (isHere) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
    // on a phone the row of them is longer than the screen
    if (isHere) anchor.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const main = element("div", { class: "page" });
  const wasHere = byId("main").contains(document.activeElement); // what is removed takes the focus with it
  byId("main").replaceChildren(main);
  if (isNew) scrollTo(0, 0);
  if (isNew || wasHere) byId("main").focus({ preventScroll: !isNew });
  try {
    await (pages.get(name) ?? nothing)(main, {
      path: path.slice(1),
      query: new URLSearchParams(location.search),
      left: signal,
    });
  } catch (error) {
    if (!signal.aborted) main.append(trouble(error));
  }
}

/** @param {string} part Of a path. What nobody encoded, as a "%" alone, stands for itself. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** @param {any} main */
function nothing(main) {
  title("Nothing is here");
  main.append(element("h1", {}, "Nothing is here"));
}

/** @param {string} text The page's title. */
export function title(text) {
  document.title = `${text} – trio_ws console`;
}

/** @param {any} error What went wrong, for people. */
export function trouble(error) {
  return element("p", { class: "trouble", role: "alert" }, error.message);
}
