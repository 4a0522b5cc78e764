/** A form for each action, made from the server's own description of itself: /asyncapi.json. */

import { byId, element, pretty } from "./elements.js";
import { follow } from "./following.js";
import { askForToken, client } from "./session.js";

const RETRY_MS = 1000;

/** @typedef {{name: string, about: string, fields: Field[]}} Action */
/** @typedef {{name: string, types: string[], choices?: string[], about: string, isRequired: boolean, example: any}} Field */

/** @type {Map<string, Action>} */
const actions = new Map();

/** @param {any} schema @param {any} schemas @returns {any[]} What it may be, references followed. */
function alternatives(schema, schemas) {
  if (schema.$ref) return alternatives(schemas[schema.$ref.split("/").at(-1)], schemas);
  return (schema.anyOf ?? schema.oneOf ?? [schema]).flatMap((/** @type {any} */ one) => (one === schema ? [one] : alternatives(one, schemas)));
}

/** @param {any} document @returns {Action[]} */
function read(document) {
  const { messages, schemas } = document.components;
  return Object.values(messages).flatMap((/** @type {any} */ message) => {
    const [schema] = alternatives(message.payload, schemas);
    const tag = schema.properties?.action;
    const name = tag?.const ?? tag?.enum?.[0];
    if (!name) return [];
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
  const attributes = { id: `field-${field.name}`, name: field.name, spellcheck: "false", autocomplete: "off" };
  const given = field.example ?? "";
  if (field.choices) {
    const choices = (field.isRequired ? [] : [""]).concat(field.choices);
    return element("select", attributes, ...choices.map((choice) => element("option", { selected: choice === given }, choice)));
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

/** @returns {[string, Record<string, any>]} The action that is chosen, and its fields. */
function chosen() {
  const action = /** @type {Action} */ (actions.get(byId("action").value));
  const given = action.fields.map((field) => [field.name, valueOf(field, byId(`field-${field.name}`))]);
  return [action.name, Object.fromEntries(given.filter(([, value]) => value !== undefined))];
}

/** @param {Field} field What it is called, its input, and what it is for. */
function row(field) {
  return element(
    "div", { class: "row" },
    element("label", { for: `field-${field.name}` }, field.name, field.isRequired ? " *" : ""),
    input(field),
    element("p", { class: "note" }, field.about.replaceAll("`", "")),
  );
}

function showFields() {
  const { about, fields } = /** @type {Action} */ (actions.get(byId("action").value));
  const isUsual = (/** @type {Field} */ field) => field.isRequired || field.example !== undefined;
  const more = fields.filter((field) => !isUsual(field));
  byId("action-about").textContent = about.replaceAll("`", "");
  byId("fields").replaceChildren(
    ...fields.filter(isUsual).map(row),
    ...(more.length ? [element("details", {}, element("summary", {}, "More fields"), ...more.map(row))] : []),
  );
  showPreview();
}

function showPreview() {
  const [name, fields] = chosen();
  byId("preview").textContent = JSON.stringify({ action: name, ...fields });
}

/** @param {any} data The invoice in a reply, if it is one, has a page, and can be followed. */
function links(data) {
  if (!data?.uid) return [];
  return [
    element("a", { href: `/console/invoice/${data.uid}` }, "Its page"),
    " ",
    element("button", { type: "button", onclick: () => follow("invoice", data.uid) }, "Follow it"),
  ];
}

async function send() {
  const [name, fields] = chosen();
  const begin = performance.now();
  byId("reply").hidden = false;
  byId("reply-took").textContent = "";
  byId("reply-links").replaceChildren();
  try {
    const reply = await client.request(name, fields);
    byId("reply-took").textContent = `after ${(performance.now() - begin).toFixed(1)} ms`;
    byId("reply-text").textContent = pretty(reply);
    byId("reply-links").replaceChildren(...links(reply.data));
    if (reply.code === "unauthorized") askForToken();
  } catch (error) {
    byId("reply-text").textContent = `no reply: ${/** @type {Error} */ (error).message}`;
  }
}

/** Return the document that says what can be asked, as soon as the server gives it. */
async function loadDocument() {
  for (;;) {
    const response = await fetch("/asyncapi.json").catch(() => null);
    const document = await response?.json().catch(() => null); // null: the server is away, or went meanwhile
    if (response?.ok && document) return document;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Have the form ask what it names. */
export async function mindRequests() {
  byId("request").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    send();
  });
  byId("action").addEventListener("change", showFields);
  byId("fields").addEventListener("input", showPreview);
  for (const action of read(await loadDocument())) {
    actions.set(action.name, action);
    byId("action").append(element("option", {}, action.name));
  }
  byId("action").value = "create_invoice";
  showFields();
}
