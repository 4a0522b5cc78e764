// Use a server that sends what none should, until it is good, and print how each use ended, a JSON object a line.
// Arguments: URL, and names as JSON, each of which is a path. Time passes 20 times as fast for the client.

import { connect, Disconnected, Refused } from "../../trio_ws/web/trio-ws.js";

const FASTER = 20;
const wait = globalThis.setTimeout;
const now = performance.now.bind(performance);
globalThis.setTimeout = (done, ms) => wait(done, ms / FASTER);
performance.now = () => FASTER * now();

async function first(found) {
  for await (const one of found) if (one.uid === "good" || one.data?.uid === "good") return;
}
async function again(ask) {
  for (;;) {
    try {
      if (await ask()) return;
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Disconnected)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
const USES = {
  call: (client) => again(async () => (await client.call("fetch_invoice", { id: "good" }))?.uid === "good"),
  all: (client) => again(async () => (await first(client.all("list_invoices")), true)),
  follow: (client) => first(client.follow([["account", 1]])),
  watch: (client) => first(client.watch("account", 1)),
};

const [url, names] = process.argv.slice(2);
const all = JSON.parse(names).flatMap((name) => Object.entries(USES).map(([use, run]) => ({ name, use, run })));
async function work() {
  for (let one = all.pop(); one; one = all.pop()) {
    const { name, use, run } = one;
    const client = connect(`${url}/${encodeURIComponent(name)}/${use}`);
    const ended = await run(client).then(
      () => "good",
      (error) => (error instanceof Refused ? "Refused" : String(error.stack)),
    );
    client.close();
    console.log(JSON.stringify({ name, use, ended }));
  }
}
await Promise.all(Array.from({ length: 24 }, work));
