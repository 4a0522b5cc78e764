/** Who is connected. */

import { button, element, link, question, time } from "./elements.js";
import { field, filters, labelled, Listing, numberOf } from "./listing.js";
import { address, title, trouble } from "./router.js";
import { ask, isOperator, may } from "./session.js";

/** @type {import("./router.js").Show} */
export async function showConnections(main, { query }) {
  title("Connections");
  const form = filters("connections", query, [
    ...(isOperator() ? [field("account", "Account", { inputmode: "numeric", size: 6 })] : []),
    field("address", "Address", { size: 16 }),
    labelled("waiting", "Only with data waiting", element("input", { type: "checkbox" })),
  ]);
  const problem = element("div");

  /** @param {any} connection */
  async function disconnect(connection) {
    problem.replaceChildren();
    const text = "The client reconnects and resumes. To keep it out, revoke its token.";
    if (!(await question(`Disconnect ${connection.id}?`, text, "Disconnect"))) return;
    try {
      await ask("end_connection", { id: connection.id });
      await list.reload();
    } catch (error) {
      problem.replaceChildren(trouble(error));
    }
  }

  const list = new Listing(
    "list_connections",
    {
      account_id: numberOf(query.get("account")),
      address: query.get("address") ?? "",
      waiting: query.get("waiting") === "true" || undefined,
    },
    [
      { name: "Since", show: ({ openedAt }) => time(openedAt) },
      { name: "Id", show: ({ id }) => element("code", {}, id) },
      { name: "Kind", show: ({ kind }) => kind.replace("_", " ") },
      { name: "Address", show: (one) => one.address },
      {
        name: "Account",
        show: ({ account_id, scopes }) => account_id ?? (scopes.includes("admin") ? "all" : null),
      },
      { name: "Token", show: ({ token_id }) => token_id, isNumber: true },
      { name: "Topics", show: topics },
      {
        name: "Waiting",
        show: ({ waiting_bytes, is_catching_up }) =>
          `${waiting_bytes.toLocaleString()} B${is_catching_up ? ", catching up" : ""}`,
        isNumber: true,
      },
      { name: "Requests", show: ({ requests }) => requests.toLocaleString(), isNumber: true },
      { name: "Messages", show: ({ messages }) => messages.toLocaleString(), isNumber: true },
      ...(may("admin")
        ? [
            {
              name: "",
              show: (/** @type {any} */ one) =>
                button("Disconnect…", () => disconnect(one), {
                  class: "small",
                  "aria-label": `Disconnect ${one.id}`,
                }),
            },
          ]
        : []),
    ],
    "nobody is connected",
  );
  main.append(
    element("h1", {}, "Connections"),
    form,
    element(
      "p",
      { class: "buttons" },
      button("Refresh", () => list.reload()),
    ),
    problem,
    list.element,
  );
  await list.load();
}

/** @param {any} connection What it follows: how much, and on demand what. */
function topics(connection) {
  if (!connection.topic_count) return "0";
  const more = connection.topic_count - connection.topics.length;
  const each = connection.topics.map((/** @type {string} */ topic) =>
    element("li", {}, link(address("live", { topic }), topic)),
  );
  return element(
    "details",
    {},
    element("summary", {}, connection.topic_count.toLocaleString()),
    element("ul", {}, ...each, ...(more ? [element("li", {}, `and ${more} more`)] : [])),
  );
}
