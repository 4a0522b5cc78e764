/** Accounts and their tokens. */

import { button, copier, element, link, question, time } from "./elements.js";
import { choice, field, filters, labelled, Listing, numberOf } from "./listing.js";
import { address, title, trouble } from "./router.js";
import { ask, identity, isOperator, may } from "./session.js";

const DAY_SECONDS = 86400;

/** @type {import("./router.js").Show} */
export async function showAccounts(main) {
  title("Accounts");
  const problem = element("div");
  const list = new Listing(
    "list_accounts",
    {},
    [
      { name: "Id", show: ({ id }) => id, isNumber: true },
      { name: "Name", show: ({ name }) => element("span", { class: "long" }, name) },
      { name: "Created", show: ({ createdAt }) => time(createdAt) },
      {
        name: "",
        show: ({ id }) =>
          element(
            "span",
            { class: "buttons" },
            link(address("invoices", isOperator() ? { account: id } : {}), "Invoices"),
            link(address("webhooks", isOperator() ? { account: id } : {}), "Webhooks"),
            link(address("connections", isOperator() ? { account: id } : {}), "Connections"),
            link(address("tokens", isOperator() ? { account: id } : {}), "Tokens"),
          ),
      },
      ...(may("admin")
        ? [
            {
              name: "",
              show: (/** @type {any} */ account) =>
                button("Rename…", () => rename(account), {
                  class: "small",
                  "aria-label": `Rename account ${account.id}`,
                }),
            },
          ]
        : []),
    ],
    "no accounts",
  );

  /** @param {() => Promise<any>} act */
  async function attempt(act) {
    problem.replaceChildren();
    try {
      await act();
      await list.reload();
    } catch (error) {
      problem.replaceChildren(trouble(error));
    }
  }
  /** @param {any} account */
  async function rename(account) {
    const name = field("name", "Name", { value: account.name, required: true, maxlength: 200 });
    if (!(await question(`Rename account ${account.id}`, "", "Rename", name))) return;
    await attempt(() =>
      ask("rename_account", { account_id: account.id, name: name.querySelector("input").value.trim() }),
    );
  }
  async function create() {
    const name = field("name", "Name", { required: true, maxlength: 200 });
    if (!(await question("Create an account", "", "Create", name))) return;
    await attempt(() => ask("create_account", { name: name.querySelector("input").value.trim() }));
  }
  main.append(
    element("h1", {}, "Accounts"),
    ...(may("admin") ? [element("p", { class: "buttons" }, button("Create an account…", create))] : []),
    problem,
    list.element,
  );
  await list.load();
}

/** @type {import("./router.js").Show} */
export async function showTokens(main, { query }) {
  title("Tokens");
  const account = query.get("account");
  const problem = element("div");
  const made = element("div", { role: "status" });
  const list = new Listing(
    "list_tokens",
    { account_id: numberOf(query.get("account")) },
    [
      { name: "Id", show: ({ id }) => id, isNumber: true },
      { name: "Account", show: ({ account_id }) => account_id ?? "operator" },
      { name: "Scopes", show: ({ scopes }) => scopes.join(", ") },
      { name: "Created", show: ({ createdAt }) => time(createdAt) },
      { name: "Expires", show: ({ expiresAt }) => (expiresAt ? time(expiresAt) : "never") },
      { name: "Revoked", show: ({ revokedAt }) => revokedAt && time(revokedAt) },
      ...(may("admin")
        ? [
            {
              name: "",
              show: (/** @type {any} */ token) =>
                token.revokedAt
                  ? ""
                  : button("Revoke…", () => revoke(token), {
                      class: "small",
                      "aria-label": `Revoke token ${token.id}`,
                    }),
            },
          ]
        : []),
    ],
    "no tokens",
  );

  /** @param {any} token */
  async function revoke(token) {
    problem.replaceChildren();
    const text = "Its connections end within a second. A revoked token stays revoked.";
    if (!(await question(`Revoke token ${token.id}?`, text, "Revoke"))) return;
    try {
      await ask("revoke_token", { id: token.id });
      await list.reload();
    } catch (error) {
      problem.replaceChildren(trouble(error));
    }
  }
  main.append(
    element("h1", {}, "Tokens"),
    ...(isOperator()
      ? [filters("tokens", query, [field("account", "Account", { inputmode: "numeric", size: 6 })])]
      : []),
    ...(may("admin") ? [identity?.isOpen ? hint() : form(made, () => list.reload(), account ?? "")] : []),
    made,
    problem,
    list.element,
  );
  await list.load();
}

function hint() {
  return element(
    "p",
    { class: "note" },
    "This server asks for no tokens. ",
    element("code", {}, "trio-ws token create"),
    " creates them on its machine.",
  );
}

/**
 * What makes a token, and shows it this once.
 * @param {any} made  Where it is shown.
 * @param {() => void} then
 * @param {string} account
 */
function form(made, then, account) {
  const scopes = ["read", "write", "process", "admin"].map((scope) =>
    labelled(`scope-${scope}`, scope, element("input", { type: "checkbox", checked: scope === "read" })),
  );
  const whose = field("account_id", "Account", { inputmode: "numeric", size: 6, value: account });
  const expires = choice("expires", "Expires", [
    ["", "never"],
    ["1", "in a day"],
    ["30", "in 30 days"],
    ["365", "in a year"],
  ]);
  const made_form = element(
    "form",
    { class: "filters", "aria-label": "Create a token" },
    whose,
    ...scopes,
    expires,
    element("button", {}, "Create a token"),
  );
  let isAsked = false;
  made_form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (isAsked) return; // a double click: of two tokens one would never be shown
    isAsked = true;
    const chosen = ["read", "write", "process", "admin"].filter(
      (scope) => made_form.elements[`scope-${scope}`].checked,
    );
    const days = made_form.elements.expires.value;
    const id = made_form.elements.account_id.value.trim();
    try {
      const { data } = await ask("create_token", {
        scopes: chosen,
        account_id: numberOf(id),
        expires_in_seconds: days ? Number(days) * DAY_SECONDS : undefined,
      });
      made.replaceChildren(
        element(
          "p",
          { class: "made" },
          `Token ${data.id}; it is shown this once: `,
          element("code", {}, data.token),
          " ",
          copier(data.token),
        ),
      );
      then();
    } catch (error) {
      made.replaceChildren(trouble(error));
    }
    isAsked = false;
  });
  return made_form;
}
