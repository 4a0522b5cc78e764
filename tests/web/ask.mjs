// Ask a real server many things at once, and print what it replied, in the order of asking.
// Arguments: URL, requests as JSON.

import { connect } from "../../trio_ws/web/trio-ws.js";

const [url, requests] = process.argv.slice(2);
const client = connect(url);
const replies = await Promise.all(JSON.parse(requests).map(({ action, ...fields }) => client.request(action, fields)));
console.log(JSON.stringify(replies));
client.close();
