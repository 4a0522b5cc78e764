/** Elements by name: text is text and never markup, so nothing that a client wrote can become code. */

/** @param {string} id @returns {any} The page's element with that id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]  A function is a listener: `onclick`; `true` is an attribute
 * without value.
 * @param {...(Node | string | number | null | undefined)} children
 * @returns {any}
 */
export function element(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

/** The same, of a drawing. @type {typeof element} */
export function drawn(tag, attributes = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** @param {any} made @param {Record<string, any>} attributes @param {any[]} children */
function dress(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * @param {string} text
 * @param {() => unknown} act
 * @param {Record<string, any>} [attributes] A button that does something.
 */
export function button(text, act, attributes = {}) {
  return element("button", { type: "button", onclick: act, ...attributes }, text);
}

/** @param {string} href @param {...any} children */
export const link = (href, ...children) => element("a", { href }, ...children);

/** @param {string} state A word in a colour that says how good it is. */
export const badge = (state) => element("span", { class: "badge", "data-state": state }, state);

/** @param {string} text A button that copies a text. */
export function copier(text) {
  const made = button(
    "Copy",
    async () => {
      try {
        await navigator.clipboard.writeText(text);
        made.textContent = "Copied";
      } catch {
        made.textContent = "Cannot copy"; // no secure context, or the browser's user forbids it
      }
    },
    { class: "small", "aria-label": `Copy ${text}` },
  );
  return made;
}

/** @param {string | undefined} iso A time as people here read it, with the day, and in UTC for who asks. */
export function time(iso) {
  if (!iso) return element("span", {}, "–");
  const date = new Date(iso);
  const shown = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  return element("time", { datetime: iso, title: iso.replace("T", " ").replace("+00:00", " UTC") }, shown);
}

/** The time of day, to the millisecond: what is looked at live happens within one. */
export function clock(date = new Date()) {
  const made = element("time", { datetime: date.toISOString() });
  made.append(
    date.toLocaleTimeString(undefined, { hour12: false }) +
      "." +
      String(date.getMilliseconds()).padStart(3, "0"),
  );
  return made;
}

/** @param {unknown} value JSON, as people read it. */
export const pretty = (value) => JSON.stringify(value, null, 2);

/** @param {Record<string, any>} pairs Names and values, in two columns; what is undefined is left out. */
export function definitions(pairs) {
  const found = Object.entries(pairs).filter(([, value]) => value !== undefined);
  return element(
    "dl",
    {},
    ...found.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

/** @param {any} one What somebody who does not see it knows it by. */
const nameOf = (one) => one.getAttribute("aria-label") ?? one.textContent;

/**
 * Draw something again, and leave the keyboard where it was: on what has the same name, or on what says how
 * things are.
 * @param {any} within  Where it is.
 * @param {() => unknown} draw
 * @param {any} instead
 */
export async function drawAgain(within, draw, instead) {
  const name = within.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  await draw();
  if (name === null || document.activeElement !== document.body) return;
  const again = [...within.querySelectorAll("a, button, summary")].find((one) => nameOf(one) === name);
  (again ?? instead).focus();
}

/**
 * Ask before something is done that cannot be undone, or for what is to be typed.
 * @param {string} title
 * @param {string} text
 * @param {string} yes  What the button says that does it.
 * @param {...HTMLElement} fields
 * @returns {Promise<boolean>}
 */
export function question(title, text, yes, ...fields) {
  const dialog = byId("question");
  byId("question-title").textContent = title;
  byId("question-text").textContent = text;
  byId("question-fields").replaceChildren(...fields);
  byId("question-yes").textContent = yes;
  byId("question-no").onclick = () => dialog.close("no");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
