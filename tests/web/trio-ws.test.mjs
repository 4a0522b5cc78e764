// The JavaScript client on a network and a clock that obey. Run by test_client_js.py, or: node --test tests/web

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { connect, Disconnected, Refused } from "../../trio_ws/web/trio-ws.js";

/** A WebSocket whose other end is the test. */
class FakeSocket {
  static made = [];

  constructor(url, protocol) {
    Object.assign(this, { url, protocol, sent: [], closedWith: null });
    FakeSocket.made.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    this.closedWith ??= code;
  }
  async open() {
    this.onopen();
    await settle();
  }
  async tell(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
    await settle();
  }
  /** Answer the last request. */
  async answer(reply) {
    await this.tell({ status: "success", ...reply, request_id: this.sent.at(-1).request_id });
  }
  async end(code = 1006, reason = "") {
    this.onclose({ code, reason });
    await settle();
  }
}

const settle = () => new Promise((resolve) => setImmediate(resolve));
const last = () => FakeSocket.made.at(-1);
const event = (number) => ({ type: "invoice.updated", data: { version: number }, position: `e.${number}` });

let clock = 0; // what performance.now says, in ms

async function pass(seconds) {
  clock += 1000 * seconds;
  mock.timers.tick(1000 * seconds);
  await settle();
}

/** A client, and what it says of its state. */
function client(options = {}) {
  return connect("ws://server", { WebSocket: FakeSocket, ...options });
}

/** Follow one topic, and keep what comes and what is said. */
async function follow(how = {}, options = {}) {
  const states = [];
  const following = client(options).follow([["account", 1]], { ...how, onState: (...state) => states.push(state) });
  const events = [];
  const done = (async () => {
    for await (const found of following) events.push(found);
  })().catch((error) => error);
  await settle();
  return { following, events, states, done };
}

beforeEach(() => {
  FakeSocket.made = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(Math, "random", () => 1);
  mock.method(performance, "now", () => clock);
});

test("requests share one line, and each gets the reply that names it", async () => {
  const one = client();
  const first = one.call("ping");
  const second = one.call("fetch_invoice", { id: "x" });
  await last().open();
  assert.equal(FakeSocket.made.length, 1);
  const [ping, fetch] = last().sent;
  assert.deepEqual({ ...fetch, request_id: 0 }, { action: "fetch_invoice", id: "x", request_id: 0 });
  await last().tell({ status: "success", data: { uid: "x" }, request_id: fetch.request_id });
  await last().tell({ type: "pong", status: "success", timestamp: 1, request_id: ping.request_id });
  assert.deepEqual(await second, { uid: "x" });
  assert.deepEqual(await first, { type: "pong", status: "success", timestamp: 1 });
});

test("an error is thrown by call, and returned by request", async () => {
  const one = client();
  const called = one.call("fetch_invoice", { id: "x" });
  const caught = assert.rejects(called, (error) => {
    assert.ok(error instanceof Refused);
    assert.deepEqual([error.message, error.code, error.detail, error.retryAfterSeconds], ["busy", "unavailable", "d", 1]);
    return true;
  });
  await last().open();
  const error = { status: "error", message: "busy", code: "unavailable", detail: "d", retry_after_seconds: 1 };
  await last().answer(error);
  await caught;
  const requested = one.request("fetch_invoice", { id: "x" });
  await settle();
  await last().answer(error);
  assert.deepEqual(await requested, error);
});

test("a line that is lost fails what was asked on it, and the next request opens another", async () => {
  const one = client();
  const asked = assert.rejects(one.call("ping"), Disconnected);
  await last().open();
  await last().end();
  await asked;
  one.call("ping").catch(() => {});
  await pass(0.2);
  assert.equal(FakeSocket.made.length, 2);
});

test("how the line ended is said to who waits for a reply, and what was too large", async () => {
  const one = client();
  for (const [code, reason, message] of [
    [1011, "", "the line was lost before the reply came: closed with 1011"],
    [1009, "message over 65536 bytes", "closed with 1009 (message over 65536 bytes): the message was larger than the server takes"],
    [4401, "the token was revoked", "closed with 4401 (the token was revoked)"],
  ]) {
    const asked = assert.rejects(one.call("ping"), { message });
    await pass(1);
    await last().open();
    await last().end(code, reason);
    await asked;
  }
});

test("the shared line is opened after pauses that grow, as a followed one is", async () => {
  const one = client();
  const pauses = [];
  const lose = async (seconds, reason = "") => {
    const made = FakeSocket.made.length;
    const asked = assert.rejects(one.call("ping"), Disconnected);
    const together = assert.rejects(one.call("ping"), Disconnected);
    let paused = 0;
    for (; last()?.closedWith !== null && paused < 1000; paused++) await pass(0.1);
    assert.equal(FakeSocket.made.length, made + 1, "and one line is for all who wait");
    pauses.push(paused / 10);
    await last().open();
    await pass(seconds);
    await last().end(1011, reason);
    await Promise.all([asked, together]);
  };
  for (let line = 0; line < 8; line++) await lose(1);
  await lose(11);
  await lose(1, "retry_after=20");
  await lose(1);
  assert.deepEqual(pauses, [0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 0.2, 20.4]);
});

test("who asks a server that wants to be left alone for long is told so at once", async () => {
  const one = client();
  const asked = assert.rejects(one.call("ping"), Disconnected);
  await last().open();
  await last().end(1001, "retry_after=100");
  await asked;
  await assert.rejects(one.call("ping"), /left alone for another 100 s; the last line: closed with 1001/);
  assert.equal(FakeSocket.made.length, 1);
});

test("a line that does not open, or does not answer, is given up", async () => {
  const one = client();
  const unopened = assert.rejects(one.call("ping"), Disconnected);
  await pass(10);
  await unopened;
  const unanswered = assert.rejects(one.call("ping"), Disconnected);
  await pass(0.2);
  await last().open();
  await pass(30);
  await unanswered;
  assert.equal(last().closedWith, 1000);
});

test("a token is said first, and a wrong one is the end", async () => {
  const states = [];
  const one = client({ token: "T", onState: (state) => states.push(state) });
  const asked = assert.rejects(one.call("ping"), { code: "unauthorized" });
  await last().open();
  assert.deepEqual(last().sent, [{ action: "authenticate", token: "T", request_id: 1 }]);
  await last().answer({ status: "error", message: "no", code: "unauthorized" });
  await asked;
  assert.deepEqual(states, ["connecting", "refused"]);
});

test("a token that can't be looked up now is said again later", async () => {
  const { states, events } = await follow({}, { token: "T" });
  await last().open();
  await last().answer({ status: "error", message: "busy", code: "unavailable", retry_after_seconds: 3 });
  assert.equal(states.at(-1)[1].retryInSeconds, 3.2);
  await pass(3.2);
  await last().open();
  await last().answer({ data: {} });
  await last().answer({ data: { position: "e.1", recovered: false } });
  await last().tell(event(2));
  assert.equal(events.length, 1);
});

test("following goes on from the last event that came, and is told what is said of its line", async () => {
  const { events, states } = await follow();
  await last().open();
  assert.deepEqual(last().sent.at(-1), {
    action: "resume", after: "none.0", topics: [{ type: "account", id: 1 }], request_id: 1,
  });
  await last().answer({ data: { position: "e.1", recovered: false } });
  await last().tell(event(2));
  await last().end(1006);
  await pass(0.2);
  await last().open();
  assert.equal(last().sent.at(-1).after, "e.2");
  await last().answer({ data: { position: "e.9", recovered: true } });
  await last().tell(event(3));
  assert.deepEqual(events.map((found) => [found.position, found.isGap]), [["e.2", false], ["e.3", false]]);
  assert.deepEqual(states, [
    ["connecting", {}],
    ["open", { position: "e.1", isResumed: false, isGap: false }],
    ["lost", { code: 1006, reason: "", retryInSeconds: 0.2 }],
    ["connecting", {}],
    ["open", { position: "e.2", isResumed: true, isGap: false }],
  ]);
});

test("before its events have come, a line that was resumed keeps the position that it resumed from", async () => {
  await follow({ after: "e.5" });
  for (let line = 0; line < 2; line++) {
    await last().open();
    assert.equal(last().sent.at(-1).after, "e.5");
    await last().answer({ data: { position: "e.9", recovered: true } });
    await last().end(1006);
    await pass(10);
  }
});

test("a gap is told, and following goes on behind it", async () => {
  const { events } = await follow({ after: "old.5" });
  await last().open();
  await last().answer({ data: { position: "e.9", recovered: false } });
  await last().end(4008);
  await pass(0.2);
  await last().open();
  assert.equal(last().sent.at(-1).after, "e.9");
  assert.deepEqual(events, [{ position: "e.9", isGap: true }]);
});

test("pauses grow to ten seconds, and begin anew once a line has held", async () => {
  const { states } = await follow();
  const pauses = [];
  for (let line = 0; line < 9; line++) {
    await last().end();
    pauses.push(states.at(-1)[1].retryInSeconds);
    await pass(10);
  }
  assert.deepEqual(pauses, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]);
  await last().open();
  await last().answer({ data: { position: "e.1", recovered: false } });
  await last().end(1011);
  assert.equal(states.at(-1)[1].retryInSeconds, 10);
  await pass(10);
  await last().open();
  await last().answer({ data: { position: "e.1", recovered: true } });
  await pass(10);
  await last().end(1011);
  assert.equal(states.at(-1)[1].retryInSeconds, 0.2);
});

for (const code of [1001, 4008]) {
  test(`a server that ends with ${code} says when to come back`, async () => {
    const { states } = await follow();
    await last().open();
    await last().end(code, "retry_after=7.5");
    assert.equal(states.at(-1)[1].retryInSeconds, 7.7);
    await pass(7.6);
    assert.equal(FakeSocket.made.length, 1);
    await pass(0.2);
    assert.equal(FakeSocket.made.length, 2);
  });
}

for (const [code, name] of [[4401, "unauthorized"], [4403, "forbidden"], [4999, "forbidden"], [1002, "invalid_message"], [1009, "invalid_message"]]) {
  test(`${code} is the end, and what came before is still taken`, async () => {
    const { events, done } = await follow();
    await last().open();
    await last().answer({ data: { position: "e.1", recovered: false } });
    await last().tell(event(2));
    await last().end(code, "because");
    const error = await done;
    assert.deepEqual([error.code, events.length], [name, 1]);
    assert.ok(error.message.startsWith(`closed with ${code} (because)`), error.message);
    await pass(100);
    assert.equal(FakeSocket.made.length, 1);
  });
}

test("topics that can't be followed are the end too, unless the server is busy", async () => {
  const { done } = await follow();
  await last().open();
  await last().answer({ status: "error", message: "no", code: "invalid_topic" });
  assert.equal((await done).code, "invalid_topic");
  assert.equal(last().closedWith, 1000);
  const busy = await follow();
  await last().open();
  await last().answer({ status: "error", message: "busy", code: "unavailable", retry_after_seconds: 2 });
  await pass(2.2);
  assert.equal(busy.states.at(-1)[0], "connecting");
});

test("after a silence the server is asked, and a line without an answer is given up", async () => {
  const { states } = await follow();
  await last().open();
  await last().answer({ data: { position: "e.1", recovered: false } });
  await pass(30);
  assert.equal(last().sent.at(-1).action, "ping");
  await last().answer({ type: "pong" });
  await pass(30);
  assert.equal(last().sent.at(-1).action, "ping");
  await pass(30);
  assert.deepEqual(states.at(-1)[1].reason, "no reply in time");
});

test("break ends the line, and so does close", async () => {
  const one = client();
  const following = one.follow([["account", 1]]);
  await last().open();
  await last().answer({ data: { position: "e.1", recovered: false } });
  await last().tell(event(2));
  for await (const found of following) {
    assert.equal(found.position, "e.2");
    break;
  }
  await following.ended;
  assert.equal(last().closedWith, 1000);
  const other = one.follow([["account", 1]]);
  one.close();
  await other.ended;
  assert.equal(last().closedWith, 1000);
});

test("who takes slowly holds no more than so many, and loses nothing", async () => {
  const following = client().follow([["account", 1]]);
  await last().open();
  await last().answer({ data: { position: "e.0", recovered: false } });
  for (let number = 1; number <= 10_005; number++) last().onmessage?.({ data: JSON.stringify(event(number)) });
  await settle();
  assert.equal(last().closedWith, 1000);
  await pass(60);
  assert.equal(FakeSocket.made.length, 1, "there is no room");
  const taken = [];
  const iterator = following[Symbol.asyncIterator]();
  while (taken.length < 10_000) taken.push((await iterator.next()).value.position);
  await settle();
  await last().open();
  assert.equal(last().sent.at(-1).after, "e.10000");
  await last().answer({ data: { position: "e.10005", recovered: true } });
  await last().tell(event(10_001));
  assert.equal((await iterator.next()).value.position, "e.10001");
  assert.equal(new Set(taken).size, 10_000);
});

for (const seconds of [-100, "soon", {}, { toString: 1 }, Number.NaN]) {
  test(`a server that refuses for no time that there is is asked at longer and longer intervals: ${JSON.stringify(seconds)}`, async () => {
    const { states } = await follow();
    const pauses = [];
    for (let line = 0; line < 4; line++) {
      await last().open();
      const error = { status: "error", message: { toString: 1 }, code: 7, retry_after_seconds: seconds };
      last().onmessage({ data: JSON.stringify({ ...error, request_id: 1 }).replace(":null", ':"nan"') });
      await settle();
      pauses.push(states.at(-1)[1].retryInSeconds);
      await pass(2);
    }
    assert.deepEqual(pauses, [0.2, 0.4, 0.8, 1.6]);
  });
}

test("a server can't have us wait for ever, whatever it says", async () => {
  for (const reason of [`retry_after=${"9".repeat(100)}`, "retry_after=Infinity", "retry_after=1e400"]) {
    const { states } = await follow();
    await last().end(1001, reason);
    assert.equal(states.at(-1)[1].retryInSeconds, 300.2);
  }
});

test("a clock that is set back changes no pause", async () => {
  const one = client();
  const asked = assert.rejects(one.call("ping"), Disconnected);
  await last().open();
  await last().end(1001, "retry_after=20");
  await asked;
  mock.method(Date, "now", () => -3_600_000);
  one.call("ping").catch(() => {});
  await settle();
  await pass(20.3);
  assert.equal(FakeSocket.made.length, 2);
});

const MANY = 200_000; // more than a stack has room for as arguments

test("a list of very many is taken whole and in order, and not in quadratic time", async () => {
  const states = await watch("account", 1);
  await last().open();
  const snapshot = Array.from({ length: MANY }, (_, version) => ({ uid: `a${version}`, version }));
  await last().answer({ data: { position: "e.1", recovered: true, snapshot, next: "c" } });
  await last().answer({});
  await last().answer({ data: snapshot.map(({ uid, version }) => ({ uid: `b${uid}`, version: MANY + version })) });
  await last().answer({ data: { position: "e.1", recovered: true } });
  while (states.length < 2 * MANY) await settle();
  assert.ok(states.every((version, index) => version === index));
});

for (const [name, page] of [["no list", { data: "x" }], ["nothing", {}], ["a list of nothing", { data: [null] }], ["itself next", { data: [], next: "c" }]]) {
  test(`a page that is ${name} is a lost line, and no more`, async () => {
    const states = await watch("account", 1);
    await last().open();
    await last().answer({ data: { position: "e.1", recovered: true, snapshot: [], next: "c" } });
    await last().answer({});
    await last().answer(page);
    await pass(0.2);
    assert.equal(FakeSocket.made.length, 2);
    await last().open();
    await last().answer({ data: { position: "e.1", recovered: true, snapshot: [{ uid: "a", version: 7 }] } });
    assert.deepEqual(states, [7]);
  });
}

test("a list is read to its end, page by page, as its items are wanted", async () => {
  const one = client();
  const items = one.all("list_invoices", { status: "unpaid" });
  const first = items.next();
  await last().open();
  assert.deepEqual(last().sent, [{ action: "list_invoices", status: "unpaid", request_id: 1 }]);
  await last().answer({ data: [{ uid: "a" }, { uid: "b" }], next: "c" });
  assert.equal((await first).value.uid, "a");
  assert.equal((await items.next()).value.uid, "b");
  assert.equal(last().sent.length, 1);
  const third = items.next();
  await settle();
  assert.deepEqual(last().sent.at(-1), { action: "list_invoices", status: "unpaid", cursor: "c", request_id: 2 });
  await last().answer({ data: [{ uid: "d" }] });
  assert.equal((await third).value.uid, "d");
  assert.equal((await items.next()).done, true);
  for (const page of [{ data: 7 }, {}, { data: [null] }]) {
    const asked = assert.rejects(one.all("list_prices").next(), Disconnected);
    await settle();
    await last().answer(page);
    await asked;
  }
  const refused = assert.rejects(one.all("list_prices").next(), Refused);
  await settle();
  await last().answer({ status: "error", message: "no", code: "forbidden" });
  await refused;
});

test("when the network is back, the pause is over", async () => {
  const listeners = new Set();
  globalThis.addEventListener = (name, listener) => name === "online" && listeners.add(listener);
  globalThis.removeEventListener = (name, listener) => listeners.delete(listener);
  await follow();
  await last().end();
  await settle();
  listeners.forEach((listener) => listener());
  await settle();
  assert.equal(FakeSocket.made.length, 2);
  assert.equal(listeners.size, 0);
});

test("a URL that leads nowhere is an error at once, and one that may not be opened when it is tried", async () => {
  assert.throws(() => connect("http://server"), SyntaxError);
  class Forbidden {
    constructor() {
      throw new Error("mixed content");
    }
  }
  const one = client({ WebSocket: Forbidden });
  await assert.rejects(one.call("ping"), /mixed content/);
  const { done } = await follow({}, { WebSocket: Forbidden });
  assert.match((await done).message, /mixed content/);
});

test("events that come together with the reply come after it", async () => {
  const { events } = await follow({ after: "old.5" });
  await last().open();
  const reply = { status: "success", data: { position: "e.1", recovered: false }, request_id: 1 };
  for (const message of [reply, event(2), event(3)]) last().onmessage({ data: JSON.stringify(message) }); // in one piece
  await settle();
  assert.deepEqual(events.map((found) => [found.position, found.isGap]), [["e.1", true], ["e.2", false], ["e.3", false]]);
  await last().end();
  await pass(0.2);
  await last().open();
  assert.equal(last().sent.at(-1).after, "e.3");
});

test("who fails when told of a state is told so where he iterates, and the line ends", async () => {
  const following = client().follow([["account", 1]], {
    onState: (state) => {
      if (state === "open") throw new Error("mine");
    },
  });
  await last().open();
  await last().answer({ data: { position: "e.1", recovered: false } });
  await assert.rejects(following[Symbol.asyncIterator]().next(), /mine/);
  assert.equal(last().closedWith, 1000);
});

test("a line that fails is lost at once, also where nothing says that it is closed", async () => {
  const { states } = await follow();
  last().onerror();
  await settle();
  assert.equal(states.at(-1)[0], "lost");
});

test("what can't be written as JSON fails by itself, and a closed client opens no line", async () => {
  const one = client();
  const asked = assert.rejects(one.call("ping", { amount: 1n }), TypeError);
  await last().open();
  await asked;
  await pass(100);
  assert.equal(last().closedWith, null);
  one.close();
  await assert.rejects(one.call("ping"), Disconnected);
  assert.equal(FakeSocket.made.length, 1);
});

test("who fails when told of the shared line's state is told on the console, and the line lives", async () => {
  const error = mock.method(console, "error", () => {});
  const one = client({
    onState: () => {
      throw new Error("mine");
    },
  });
  const asked = one.call("ping");
  await last().open();
  await last().answer({ data: 1 });
  assert.equal(await asked, 1);
  assert.equal(error.mock.callCount(), 2);
});

for (const data of ["null", "<html>", "{}", '{"type":1}', new Uint8Array(2)]) {
  test(`a message that is none of the protocol's is no more than a lost line: ${data}`, async () => {
    const { states } = await follow();
    await last().open();
    last().onmessage({ data });
    await settle();
    assert.equal(states.at(-1)[0], "lost");
  });
}

test("more topics than a message takes are followed by several", async () => {
  const topics = Array.from({ length: 1000 }, (_, number) => ["address", `0x${number}`.padEnd(42, "f")]);
  const following = client().follow(topics);
  await last().open();
  while (last().sent.at(-1).more) await last().answer({});
  await last().answer({ data: { position: "e.1", recovered: false } });
  assert.deepEqual(last().sent.flatMap((request) => request.topics).map(({ type, id }) => [type, id]), topics);
  assert.ok(last().sent.every((request) => JSON.stringify(request).length < 65536 / 3));
  following.close();
});

/** Watch one invoice, and keep what comes. */
async function watch(...topic) {
  const states = [];
  const watching = client().watch(...topic);
  (async () => {
    for await (const state of watching) states.push(state.version);
  })();
  await settle();
  return states;
}

test("watching yields the state now and each newer one over lost lines, and after a gap the state again", async () => {
  const states = await watch("invoice", "x");
  await last().open();
  assert.deepEqual(last().sent.at(-1), { action: "subscribe", type: "invoice", id: "x", snapshot: true, request_id: 1 });
  await last().answer({ data: { position: "e.1", recovered: true, snapshot: { version: 1 } } });
  await last().tell(event(2));
  await last().tell({ ...event(7), type: "payment.created" });
  await last().end();
  await pass(0.2);
  await last().open();
  assert.deepEqual([last().sent.at(-1).action, last().sent.at(-1).after], ["resume", "e.7"]);
  await last().answer({ data: { position: "e.9", recovered: true } });
  await last().tell(event(8));
  assert.deepEqual(states, [1, 2, 8]);
  await last().end();
  await pass(0.4);
  await last().open();
  await last().answer({ data: { position: "other.3", recovered: false } });
  await last().tell(event(4)); // before the snapshot, which holds it
  assert.equal(last().sent.at(-1).action, "unsubscribe");
  await last().answer({});
  await last().end(); // before it was had
  await pass(0.8);
  await last().open();
  assert.equal(last().sent.at(-1).action, "subscribe");
  await last().answer({ data: { position: "other.3", recovered: true, snapshot: { version: 4 } } });
  await last().tell(event(5));
  assert.deepEqual(states, [1, 2, 8, 4, 5]);
});

test("watching an account reads all pages, and leaves out events that are older than what these say", async () => {
  const states = await watch("account", 1);
  await last().open();
  await last().answer({ data: { position: "e.1", recovered: true, snapshot: [{ uid: "a", version: 1 }], next: "c" } });
  await last().answer({});
  assert.equal(last().sent.at(-1).cursor, "c");
  await last().answer({ data: [{ uid: "b", version: 12 }] });
  assert.equal(last().sent.at(-1).after, "e.1");
  await last().answer({ data: { position: "e.9", recovered: true } });
  for (const version of [11, 12, 13]) await last().tell({ ...event(version), data: { uid: "b", version } });
  assert.deepEqual(states, [1, 12, 13]);
});
