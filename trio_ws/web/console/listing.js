/** A list that the server gives in pages, as a table: more is read when it is asked for. */

import { button, drawAgain, element } from "./elements.js";
import { go, trouble } from "./router.js";
import { ask } from "./session.js";

const PAGE = 50;
// that may be empty, as of a search in memos: then the reader decides whether to go on
const SEARCHED_PAGES = 10;

/**
 * @typedef {object} Column
 * @property {string} name
 * @property {(item: any) => any} show  A node or a text.
 * @property {boolean} [isNumber]
 */

export class Listing {
  /** @type {string | undefined} */
  #cursor;
  #count = 0;
  #reading = 0; // the number of the last read: what an earlier one still brings is not wanted

  /**
   * @param {string} action
   * @param {Record<string, any>} fields
   * @param {Column[]} columns
   * @param {string} nothing  What is said where there is nothing.
   */
  constructor(action, fields, columns, nothing) {
    this.action = action;
    this.fields = fields;
    this.columns = columns;
    this.nothing = nothing;
    this.body = element("tbody");
    this.note = element("p", { class: "note", role: "status", tabindex: -1 }, "loading");
    this.more = button("Load more", () => this.load(), { hidden: true });
    const head = columns.map(({ name, isNumber }) =>
      element("th", { scope: "col", class: isNumber ? "number" : undefined }, name),
    );
    this.table = element(
      "table",
      { hidden: true },
      element("thead", {}, element("tr", {}, ...head)),
      this.body,
    );
    this.element = element(
      "div",
      { class: "listing" },
      this.table,
      element("p", { class: "buttons" }, this.more),
      this.note,
    );
  }

  /** Read it from its beginning. */
  async reload() {
    this.#cursor = undefined;
    this.#count = 0;
    await drawAgain(
      this.body,
      () => {
        this.body.replaceChildren();
        return this.load();
      },
      this.note,
    );
  }

  /** Read the next page. */
  async load() {
    const reading = (this.#reading += 1);
    const hadFocus = document.activeElement === this.more;
    this.note.textContent = "loading";
    try {
      let found = [];
      let message;
      for (let page = 0; page < SEARCHED_PAGES && !found.length; page += 1) {
        const reply = await ask(this.action, { limit: PAGE, ...this.fields, cursor: this.#cursor });
        if (reading !== this.#reading) return;
        found = reply.data;
        message = reply.message;
        this.#cursor = reply.next;
        if (!this.#cursor) break;
      }
      this.#count += found.length;
      this.body.append(...found.map((/** @type {any} */ item) => this.#row(item)));
      this.table.hidden = !this.#count;
      this.more.hidden = !this.#cursor;
      this.more.textContent = found.length ? "Load more" : "Search on";
      this.note.replaceChildren([this.#said(found.length), message].filter(Boolean).join("; "));
    } catch (error) {
      if (reading !== this.#reading) return;
      this.note.replaceChildren(trouble(error));
      this.more.hidden = false;
      this.more.textContent = "Try again";
    }
    if (hadFocus && this.more.hidden) this.note.focus();
  }

  /** @param {number} found */
  #said(found) {
    if (this.#cursor)
      return found
        ? `the first ${this.#count} are shown`
        : `nothing in what was looked through; ${this.#count} are shown`;
    return this.#count ? `${this.#count} in all` : this.nothing;
  }

  /** @param {any} item */
  #row(item) {
    const cells = this.columns.map(({ name, show, isNumber }) => {
      const shown = show(item);
      return element("td", { "data-label": name, class: isNumber ? "number" : undefined }, shown ?? "–");
    });
    return element("tr", {}, ...cells);
  }
}

/**
 * A form whose fields are the address's query: what is looked for can be linked to, and back goes back.
 * @param {string} path  Of the address.
 * @param {URLSearchParams} query
 * @param {HTMLElement[]} fields  Inputs and selects with names.
 * @param {(given: Record<string, string>) => string | undefined} [shortcut]  Returns where to go instead.
 */
export function filters(path, query, fields, shortcut = () => undefined) {
  const form = element(
    "form",
    { class: "filters", role: "search" },
    ...fields,
    element("button", {}, "Show"),
  );
  for (const control of form.elements)
    if (control.name && query.has(control.name)) {
      if (control.type === "checkbox") control.checked = query.get(control.name) === "true";
      else control.value = query.get(control.name);
    }
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries(
      [...form.elements]
        .filter((control) => control.name)
        .map((control) => [
          control.name,
          control.type === "checkbox" ? (control.checked ? "true" : "") : control.value.trim(),
        ])
        .filter(([, value]) => value !== ""),
    );
    const text = new URLSearchParams(given).toString();
    go(shortcut(given) ?? `/console/${path}${text && `?${text}`}`);
  });
  return form;
}

/**
 * @param {string | null} text An id that was typed; what is no number goes as it is, for the server to
 *   refuse.
 */
export function numberOf(text) {
  if (!text) return undefined;
  return Number.isSafeInteger(Number(text)) ? Number(text) : text;
}

let numbers = 0;

/** @param {string} name @param {string} text @param {any} control A control with its label. */
export function labelled(name, text, control) {
  const id = `${name}-${(numbers += 1)}`;
  control.id = id;
  control.name = name;
  return element("span", { class: "field" }, element("label", { for: id }, text), control);
}

/** @param {string} name @param {string} text @param {Record<string, any>} [attributes] */
export const field = (name, text, attributes = {}) =>
  labelled(name, text, element("input", { spellcheck: "false", autocomplete: "off", ...attributes }));

/**
 * @param {string} name
 * @param {string} text
 * @param {[string, string][]} choices Values and what they are called.
 */
export const choice = (name, text, choices) =>
  labelled(
    name,
    text,
    element("select", {}, ...choices.map(([value, said]) => element("option", { value }, said))),
  );
