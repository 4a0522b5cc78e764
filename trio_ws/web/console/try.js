/** A form for each action, made from the server's own description of itself: /asyncapi.json. */

import { button, byId, element, link, pretty } from "./elements.js";
import { choice } from "./listing.js";
import { address, go, title } from "./router.js";
import { askForToken, client } from "./session.js";

const RETRY_MS = 1000;
// Of these nothing is seen here: what they bring comes later, or is the whole connection's.
const ELSEWHERE = ["subscribe", "resume", "unsubscribe", "unsubscribe_all", "authenticate"];

/** @typedef {{name: string, about: string, fields: Field[]}} Action */
/**
 * @typedef {{name: string, types: string[], choices?: string[], about: string, isRequired: boolean, example:
 *   any}} Field
 */

/** @type {Promise<Map<string, Action>> | undefined} */
let actions;

/** @param {any} schema @param {any} schemas @returns {any[]} What it may be, references followed. */
function alternatives(schema, schemas) {
  if (schema.$ref) return alternatives(schemas[schema.$ref.split("/").at(-1)], schemas);
  return (schema.anyOf ?? schema.oneOf ?? [schema]).flatMap((/** @type {any} */ one) =>
    one === schema ? [one] : alternatives(one, schemas),
  );
}

/** @param {any} document @returns {Action[]} */
function read(document) {
  const { messages, schemas } = document.components;
  return Object.values(messages).flatMap((/** @type {any} */ message) => {
    const [schema] = alternatives(message.payload, schemas);
    const tag = schema.properties?.action;
    const name = tag?.const ?? tag?.enum?.[0];
    if (!name || ELSEWHERE.includes(name)) return [];
    const example = message.examples?.[0]?.payload ?? {};
    const fields = Object.entries(schema.properties)
      .filter(([field]) => field !== "action" && field !== "request_id")
      .map(([field, found]) => {
        const types = alternatives(found, schemas);
        return {
          name: field,
          types: types.map((one) => one.type),
          choices: types.find((one) => one.enum)?.enum,
          about: /** @type {any} */ (found).description ?? "",
          isRequired: (schema.required ?? []).includes(field),
          example: example[field],
        };
      });
    return [{ name, about: message.summary ?? message.description ?? schema.description ?? "", fields }];
  });
}

/** @param {Field} field An input that fits. */
function input(field) {
  const attributes = {
    id: `field-${field.name}`,
    name: field.name,
    spellcheck: "false",
    autocomplete: "off",
  };
  const given = field.example ?? "";
  if (field.choices) {
    const choices = (field.isRequired ? [] : [""]).concat(field.choices);
    return element(
      "select",
      attributes,
      ...choices.map((one) => element("option", { selected: one === given }, one)),
    );
  }
  if (field.types.includes("boolean")) return element("input", { ...attributes, type: "checkbox" });
  const isList = field.types.includes("array") || field.types.includes("object");
  if (isList) return element("textarea", { ...attributes, rows: 2 }, given && JSON.stringify(given));
  const isNumber = field.types.every((type) => ["integer", "number", "null"].includes(type));
  return element("input", { ...attributes, value: given, inputmode: isNumber ? "decimal" : "text" });
}

/**
 * What an input holds, as JSON: a number where one may stand there, else text.
 * @param {Field} field @param {any} control
 */
function valueOf(field, control) {
  if (control.type === "checkbox") return control.checked || undefined;
  const text = control.value.trim();
  if (text === "") return undefined;
  const mayBeNumber = field.types.includes("integer") || field.types.includes("number");
  const parsed = mayBeNumber || control.tagName === "TEXTAREA" ? parse(text) : text;
  return typeof parsed === "number" && !mayBeNumber ? text : parsed;
}

/** @param {string} text */
function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "number" && String(value) !== text && Number.isInteger(value) ? text : value;
  } catch {
    return text;
  }
}

/** @param {Field} field What it is called, its input, and what it is for. */
function row(field) {
  return element(
    "div",
    { class: "row" },
    element("label", { for: `field-${field.name}` }, field.name, field.isRequired ? " *" : ""),
    input(field),
    element("p", { class: "note" }, field.about.replaceAll("`", "")),
  );
}

/** @param {any} data The invoice in a reply, if it is one. */
function links(data) {
  if (!data?.uid) return [];
  return [
    link(address(`invoices/${data.uid}`), "Open the invoice"),
    " ",
    link(address("live", { topic: `invoice:${data.uid}` }), "Watch it live"),
  ];
}

/** @returns {Promise<any>} The document that says what can be asked, as soon as the server gives it. */
async function loadDocument() {
  for (;;) {
    const response = await fetch("/asyncapi.json").catch(() => null);
    const document = await response?.json().catch(() => null); // null: the server is away, or went meanwhile
    if (response?.ok && document) return document;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** @type {import("./router.js").Show} */
export async function showTry(main, { query }) {
  title("Try");
  actions ??= loadDocument().then((document) => new Map(read(document).map((one) => [one.name, one])));
  const known = await actions;
  const action = /** @type {Action} */ (known.get(query.get("action") ?? "") ?? known.get("create_invoice"));
  const isUsual = (/** @type {Field} */ field) => field.isRequired || field.example !== undefined;
  const more = action.fields.filter((field) => !isUsual(field));
  const fields = element(
    "div",
    { id: "fields" },
    ...action.fields.filter(isUsual).map(row),
    ...(more.length ? [element("details", {}, element("summary", {}, "More fields"), ...more.map(row))] : []),
  );
  const chooser = choice(
    "action",
    "Action",
    [...known.keys()].map((name) => [name, name]),
  );
  const select = chooser.querySelector("select");
  select.id = "action";
  chooser.querySelector("label").htmlFor = "action";
  select.value = action.name;
  select.addEventListener("change", async () => {
    await go(address("try", { action: select.value }), { replace: true });
    byId("action")?.focus(); // where the keyboard was
  });
  const preview = element("pre", { id: "preview", "aria-label": "The request as it is sent", tabindex: 0 });
  const took = element("small", { id: "reply-took" });
  const text = element("pre", { id: "reply-text", role: "status", tabindex: 0 });
  const after = element("p", { id: "reply-links", class: "buttons" });
  const reply = element(
    "section",
    { hidden: true, "aria-label": "Reply" },
    element("h2", {}, "Reply ", took),
    text,
    after,
  );
  const form = element(
    "form",
    { id: "request" },
    chooser,
    element("p", { class: "note" }, action.about.replaceAll("`", "")),
    fields,
    preview,
    element("button", {}, "Send"),
  );
  main.append(
    element("h1", {}, "Try"),
    element(
      "p",
      { class: "note" },
      "Send a request, and see its reply. To follow topics, see ",
      link(address("live"), "Live"),
      ".",
    ),
    element("div", { class: "cards" }, element("section", {}, form), reply),
  );

  const given = () =>
    Object.fromEntries(
      action.fields
        .map((field) => [field.name, valueOf(field, byId(`field-${field.name}`))])
        .filter(([, value]) => value !== undefined),
    );
  const show = () => {
    preview.textContent = JSON.stringify({ action: action.name, ...given() });
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const begin = performance.now();
    reply.hidden = false;
    took.textContent = "";
    after.replaceChildren();
    try {
      const got = await client.request(action.name, given());
      took.textContent = `after ${(performance.now() - begin).toFixed(1)} ms`;
      text.textContent = pretty(got);
      after.replaceChildren(
        ...links(got.data),
        button("Copy", () => navigator.clipboard?.writeText(text.textContent), { class: "small" }),
      );
      if (got.code === "unauthorized") askForToken();
    } catch (error) {
      text.textContent = `no reply: ${/** @type {Error} */ (error).message}`;
    }
  });
  show();
}
