/** Elements by name: text is text and never markup, so nothing that a client wrote can become code. */

/** @param {string} id @returns {any} The page's element with that id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]  A function is a listener: `onclick`; `true` is an attribute without value.
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

/** The time of day, to the millisecond: what is looked at here happens within one. */
export function clock(date = new Date()) {
  const time = element("time", { datetime: date.toISOString() });
  time.append(date.toLocaleTimeString(undefined, { hour12: false }) + "." + String(date.getMilliseconds()).padStart(3, "0"));
  return time;
}

const SHOWN = 500; // entries of a list: what is older goes

/** Put an entry on top of a list. @param {Element} list @param {string} kind @param {...any} children */
export function note(list, kind, ...children) {
  list.prepend(element("li", { "data-kind": kind }, clock(), ...children));
  while (list.children.length > SHOWN) list.lastElementChild?.remove();
}

/** @param {unknown} value JSON, as people read it. */
export const pretty = (value) => JSON.stringify(value, null, 2);
