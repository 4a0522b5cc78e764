/**
 * Events as they come. What is followed is in the address, and goes on while other pages are shown.
 *
 * Nothing vanishes without a word: what is held back while the list stands still, what a filter hides and
 * what is
 * too old to be kept is counted.
 */

import { inWords } from "./amounts.js";
import { button, clock, drawAgain, element, link, pretty } from "./elements.js";
import { choice, field } from "./listing.js";
import { address, go, title } from "./router.js";
import { askForToken, client } from "./session.js";

const KEPT = 5000; // entries
const SHOWN = 200; // of these at first: a page of thousands would be slow to read, and to draw

/** @typedef {{number: number, at: Date, kind: string, text: string, event?: any}} Entry */

/** @type {Map<string, {following: any, state: string}>} By topic, as `account:1`. */
const topics = new Map();
/** @type {Entry[]} The newest last. */
const entries = [];
let dropped = 0;
let last = 0;
let changed = () => {};

/** @param {string} kind @param {string} text @param {any} [event] */
function add(kind, text, event) {
  entries.push({ number: (last += 1), at: new Date(), kind, text, event });
  if (entries.length > KEPT) {
    entries.shift();
    dropped += 1;
  }
  changed();
}

/**
 * What a change of a line's state means to who follows.
 * @param {string} state
 * @param {any} detail
 * @returns {[kind: string, text: string] | null}
 */
function told(state, { code, reason, retryInSeconds, position, isResumed, isGap }) {
  const why = [code, reason].filter(Boolean).join(", ");
  if (state === "lost")
    return ["lost", `connection lost (${why}); reconnecting in ${retryInSeconds?.toFixed(1)} s`];
  if (state === "refused") return ["lost", `refused: ${why}`];
  if (state !== "open" || isGap) return null;
  return ["back", isResumed ? `resumed at ${position}: nothing was missed` : `following from ${position}`];
}

/** @param {any} event What it is, in a line. */
function summary({ type, data, previous }) {
  if (type === "price.updated") return `${data.currency} ${data.value} ${data.base_currency}`;
  const change = previous && "status" in previous ? `${previous.status} → ${data.status}` : data.status;
  return `${inWords(data.amount, data.currency)}, ${change}`;
}

/** Follow a topic until it is stopped. @param {string} topic */
async function follow(topic) {
  const colon = topic.indexOf(":");
  const [type, id] = [topic.slice(0, colon), topic.slice(colon + 1)];
  const known = { following: /** @type {any} */ (null), state: "connecting" };
  topics.set(topic, known);
  known.following = client.follow([[type, id]], {
    onState(/** @type {string} */ state, /** @type {any} */ detail) {
      known.state = state;
      const said = told(state, detail);
      if (said) add(said[0], `${topic}: ${said[1]}`);
      else changed();
    },
  });
  try {
    for await (const event of known.following) {
      if (event.isGap) add("gap", `${topic}: events may be missing before ${event.position}`);
      else add("event", `${event.type} ${summary(event)}`, event);
    }
  } catch (error) {
    const { code, message } = /** @type {any} */ (error);
    if (code === "unauthorized") askForToken();
    add("lost", `${topic}: ${message}`);
  }
  if (topics.get(topic) === known) topics.delete(topic);
  changed();
}

/** @param {string} topic */
function stop(topic) {
  topics.get(topic)?.following.close();
  topics.delete(topic);
}

/** @param {Entry} entry */
function row({ at, kind, text, event, number }) {
  if (!event) return element("li", { "data-kind": kind, "data-number": number }, clock(at), text);
  const uid = event.data.uid ?? event.data.invoice;
  return element(
    "li",
    { "data-kind": kind, "data-number": number },
    clock(at),
    element(
      "details",
      {},
      element("summary", {}, text),
      element(
        "pre",
        { tabindex: 0 },
        pretty({ type: event.type, data: event.data, previous: event.previous, position: event.position }),
      ),
      uid ? link(address(`invoices/${uid}`), "Open the invoice") : null,
    ),
  );
}

/** @param {Iterable<string>} wanted Topics, for an address. */
const addressOf = (wanted) => {
  const text = new URLSearchParams([...wanted].map((topic) => ["topic", topic])).toString();
  return `/console/live${text && `?${text}`}`;
};

/** @type {import("./router.js").Show} */
export function showLive(main, { query, left }) {
  title("Live");
  const wanted = [...new Set(query.getAll("topic").filter((topic) => topic.includes(":")))];
  if (!wanted.length && topics.size) {
    go(addressOf(topics.keys()), { replace: true }); // what is followed already
    return;
  }
  for (const topic of [...topics.keys()]) if (!wanted.includes(topic)) stop(topic);
  for (const topic of wanted) if (!topics.has(topic)) follow(topic);

  let isPaused = false;
  let isHeld = false; // while somebody reads an entry
  let shownUpTo = 0;
  let most = SHOWN;
  const kind = choice("type", "Topic", [
    ["account", "account"],
    ["invoice", "invoice"],
    ["address", "address"],
    ["price", "price"],
  ]);
  const id = field("id", "Id", { required: true, placeholder: "1" });
  const form = element("form", { id: "follow", class: "filters" }, kind, id, element("button", {}, "Follow"));
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const topic = `${form.elements.type.value}:${form.elements.id.value.trim()}`;
    go(addressOf(new Set([...wanted, topic])));
  });
  const followed = element("ul", { id: "followed", "aria-label": "Topics" });
  const pause = button("Pause", () => {
    isPaused = !(isPaused || isHeld);
    isHeld = false;
    if (!isPaused) for (const open of list.querySelectorAll("details[open]")) open.open = false;
    draw();
  });
  const search = field("filter", "Filter", { type: "search", placeholder: "type, uid, status …" });
  search.addEventListener("input", () => redraw());
  const clear = button("Clear", () => {
    entries.length = 0;
    dropped = 0;
    redraw();
  });
  const counts = element("p", { class: "note", id: "counts", role: "status" });
  const list = element("ol", { id: "events", role: "log", "aria-label": "Events, the newest first" });
  const older = button(
    "Show older",
    () => {
      most += SHOWN;
      redraw();
    },
    { hidden: true },
  );
  list.addEventListener(
    "toggle",
    () => {
      isHeld = list.querySelector("details[open]") !== null;
      draw();
    },
    true,
  );
  main.append(
    element("h1", {}, "Live"),
    form,
    followed,
    element("div", { class: "filters" }, search, pause, clear),
    counts,
    list,
    element("p", { class: "buttons" }, older),
  );

  const matches = (/** @type {Entry} */ entry) => {
    const text = search.querySelector("input").value.trim().toLowerCase();
    return (
      !text || `${entry.text} ${entry.event ? JSON.stringify(entry.event) : ""}`.toLowerCase().includes(text)
    );
  };

  function redraw() {
    list.replaceChildren();
    isHeld = false; // no entry is open
    draw(0);
  }

  function draw(above = shownUpTo) {
    const stands = isPaused || isHeld;
    if (!stands) shownUpTo = last;
    const fresh = entries
      .filter((entry) => entry.number > above && entry.number <= shownUpTo && matches(entry))
      .slice(-most);
    list.prepend(...fresh.reverse().map(row));
    while (list.children.length > most) list.lastElementChild?.remove();
    const found = entries.filter((entry) => entry.number <= shownUpTo && matches(entry)).length;
    const held = entries.filter((entry) => entry.number > shownUpTo).length;
    const hidden = entries.length - held - found;
    counts.textContent = [
      `${entries.length.toLocaleString()} entries, ${list.children.length} shown`,
      hidden ? `${hidden.toLocaleString()} hidden by the filter` : "",
      held ? `${held.toLocaleString()} new, held back while you read` : "",
      dropped ? `${dropped.toLocaleString()} older ones dropped` : "",
    ]
      .filter(Boolean)
      .join("; ");
    older.hidden = found <= list.children.length;
    pause.textContent = stands ? "Continue" : "Pause";
    drawAgain(
      followed,
      () =>
        followed.replaceChildren(
          ...[...topics].map(([topic, { state }]) =>
            element(
              "li",
              {},
              element("span", { class: "badge", "data-state": state }, state === "open" ? "live" : state),
              topic,
              button(
                "Stop",
                () => {
                  stop(topic);
                  go(addressOf(wanted.filter((one) => one !== topic)), { replace: true });
                },
                { class: "small", "aria-label": `Stop following ${topic}` },
              ),
            ),
          ),
        ),
      pause,
    );
  }

  let isDue = false;
  changed = () => {
    if (isDue) return; // hundreds of events are drawn together
    isDue = true;
    setTimeout(() => {
      isDue = false;
      if (!left.aborted) draw();
    }, 50);
  };
  left.addEventListener("abort", () => {
    changed = () => {};
  });
  draw();
}
