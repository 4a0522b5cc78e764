// Follow topics on a real server, and print what comes and what is said of the line, a JSON object a line.
// Arguments: URL, topics as JSON, and as options of `connect` and `follow` JSON too.

import { connect } from "../../trio_ws/web/trio-ws.js";

const [url, topics, options = "{}"] = process.argv.slice(2);
const { token, after, most = Infinity } = JSON.parse(options);
const say = (what) => console.log(JSON.stringify(what));

const client = connect(url, { token });
const following = client.follow(JSON.parse(topics), { after, onState: (state, detail) => say({ state, ...detail }) });
let count = 0;
try {
  for await (const event of following) {
    say(event);
    if (++count === most) break;
  }
  say({ end: true });
} catch (error) {
  say({ error: error.code, message: error.message });
}
