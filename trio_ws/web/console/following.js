/** Topics that are followed, and what comes: events, and what happens to the lines that bring them. */

import { byId, element, note, pretty } from "./elements.js";
import { askForToken, client } from "./session.js";

/**
 * Say what a change of a line's state means to who follows.
 * @param {import("/trio-ws.js").State} state
 * @param {import("/trio-ws.js").Detail} detail
 * @returns {[kind: string, text: string] | null}
 */
export function tell(state, { code, reason, retryInSeconds, position, isResumed, isGap }) {
  const why = [code, reason].filter(Boolean).join(", ");
  switch (state) {
    case "lost": return ["lost", `line lost (${why}); trying again in ${retryInSeconds?.toFixed(1)} s`];
    case "refused": return ["lost", `refused: ${why}`];
    case "open": return isGap ? null : ["back", `following ${isResumed ? "on " : ""}from ${position}${isResumed ? ": nothing was missed" : ""}`];
    default: return null;
  }
}

/** @param {any} event What it is, in a line. */
function summary(event) {
  const { data, previous } = event;
  if (event.type === "price.updated") return `${data.currency} ${data.value} ${data.base_currency}`;
  const change = previous && "status" in previous ? `${previous.status} → ${data.status}` : data.status;
  return `${data.amount} ${data.currency}, ${change}`;
}

/** @param {any} event */
function entry(event) {
  const page = event.type.startsWith("invoice.") ? element("a", { href: `/console/invoice/${event.data.uid}` }, "its page") : null;
  return element(
    "details", {},
    element("summary", {}, element("b", {}, event.type), ` ${summary(event)}`),
    element("pre", { tabindex: 0 }, pretty({ type: event.type, data: event.data, previous: event.previous, position: event.position })),
    page,
  );
}

/** Follow a topic, until it is followed no more. @param {any} type @param {string} id */
export async function follow(type, id) {
  const list = byId("events");
  const name = `${type} ${id}`;
  const badge = element("span", { class: "badge", "data-state": "connecting" }, "connecting");
  const following = client.follow([[type, id]], {
    onState(/** @type {import("/trio-ws.js").State} */ state, /** @type {any} */ detail) {
      const told = tell(state, detail);
      if (told) note(list, told[0], `${name}: ${told[1]}`);
      badge.dataset.state = state;
      badge.textContent = state === "open" ? "live" : state;
    },
  });
  const item = element(
    "li", {},
    badge, name,
    element("button", { type: "button", "aria-label": `Follow ${name} no more`, onclick: () => following.close() }, "Stop"),
  );
  byId("followed").append(item);
  try {
    for await (const event of following) {
      if (event.isGap) note(list, "gap", `${name}: something may have been missed before ${event.position}`);
      else note(list, "event", entry(event));
    }
  } catch (error) {
    if (/** @type {any} */ (error).code === "unauthorized") askForToken();
  }
  item.remove();
}

/** Have the form follow what it names. */
export function mindFollowing() {
  byId("follow").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    follow(byId("topic-type").value, byId("topic-id").value.trim());
  });
}
