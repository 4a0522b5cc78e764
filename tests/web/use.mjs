// What a program that installed the package does. Argument: URL. Run by tests/test_packaging.py.

import { connect } from "trio-ws";

const client = connect(process.argv[2]);
const { uid } = await client.call("create_invoice", { amount: 1000, currency: "USD", account_id: 1 });
for await (const { version, status } of client.watch("invoice", uid)) {
  console.log(version, status);
  if (status === "cancelled") break;
  await client.call("cancel_invoice", { uid });
}
client.close();
