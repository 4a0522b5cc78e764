// What a program in TypeScript says, and what its compiler refuses. Checked by tests/test_packaging.py.

import { connect, Disconnected, Refused } from "trio-ws";
import type { Detail, Event, Gap, Invoice, State } from "trio-ws";

const onState = (state: State, { code }: Detail) => console.log(state, code);
const client = connect("ws://localhost:8080", { token: "T", onState });

const asked = { amount: 1000, currency: "USD", account_id: 1, memo: null };
const invoice: Invoice = await client.call("create_invoice", asked);
const { timestamp } = await client.call("ping");
const prices = await client.call("list_prices");
const total: number = prices.reduce((sum, price) => sum + price.value, timestamp);
await client.call("set_price", { currency: "BTC", base_currency: "USD", value: "43000.00" });
for await (const { uid } of client.all("list_invoices", { status: "unpaid" })) console.log(uid.length);
for await (const { value } of client.all("list_prices")) console.log(value.toFixed(2));
// @ts-expect-error - that is no list
client.all("ping");
const anything: unknown = (await client.request("an_action_of_tomorrow", { x: total })).data;

// @ts-expect-error - a field is missing
await client.call("create_invoice", { amount: 1000 });
// @ts-expect-error - it takes fields
await client.call("create_invoice");
// @ts-expect-error - there is no such field
await client.call("ping", { amount: 1000 });
// @ts-expect-error - there is no such action
await client.call("create_invoices", {});
// @ts-expect-error - an amount is a number
await client.call("create_invoice", { amount: "1000", currency: "USD" });
// @ts-expect-error - there is no such status
await client.call("update_invoice", { uid: invoice.uid, status: "payed" });
// @ts-expect-error - an invoice has no such field
invoice.colour;
// @ts-expect-error - there are no such topics
client.watch("weather", "today");

for await (const { status } of client.watch("invoice", invoice.uid)) {
  const known: "unpaid" | "confirming" | "paid" | "expired" | "cancelled" = status;
  // @ts-expect-error - there is no such status
  if (status === "payed") break;
  console.log(known);
}
for await (const { currency, value } of client.watch("price", "*")) console.log(currency, value.toFixed(2));

function show(found: Event | Gap): string {
  if (found.isGap) return found.position;
  if (found.type === "price.updated") return found.data.base_currency;
  return `${found.previous?.status} → ${found.data.status}`;
}
try {
  for await (const found of client.follow([["account", 1], ["price", "*"]], { after: "a.1" })) show(found);
} catch (error) {
  if (error instanceof Refused) console.log(error.code, error.retryAfterSeconds, anything);
  else if (error instanceof Disconnected) console.log(error.code, error.reason);
}
client.close();
