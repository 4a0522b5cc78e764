/**
 * The JavaScript client: sends requests, watches and follows. It reconnects by itself, and resumes.
 *
 *     import { connect } from "/trio-ws.js";
 *
 *     const client = connect("wss://ws.example", { token });
 *     const invoice = await client.call("create_invoice", { amount: 1000, currency: "USD", account_id: 1 });
 *     for await (const { status } of client.watch("invoice", invoice.uid)) {
 *       if (status === "paid") break;
 *     }
 *
 * Requests share one connection. Each `watch` and `follow` has its own, with its own place in the log. The
 * client has no dependencies. It is for browsers, and for Node 22 and later (20 with
 * `--experimental-websocket`).
 *
 * @module trio-ws
 */

// Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): a random time below a doubling bound
const FIRST_PAUSE_S = 0.2;
const LONGEST_PAUSE_S = 10;
const OPEN_S = 10; // for a connection to open
const REPLY_S = 30; // the server answers within 5 s or so, or the connection is dead
const SILENCE_S = 30; // a browser does not show the server's pings, so after so long we ping
const HELD_S = 10; // a connection that was lost sooner is no reason to reconnect sooner
const MOST_S = 300; // that a server can have us wait
const BATCH_CHARACTERS = 10_000; // of topics in one message, three bytes each at most; a server takes 64 KiB
const MOST_WAITING = 10_000; // events: a browser can't stop reading, so a slow consumer catches up later

// Close codes: RFC 6455 section 7.4.1, and the protocol's section 6.
const NORMAL = 1000;
const ABNORMAL = 1006;
const UNAUTHORIZED = 4401;
const FAULTS = new Map([
  [1002, "the server could not read a frame"],
  [1007, "the server could not read a message as UTF-8"],
  [1009, "the message was larger than the server takes"],
]);
// Not again without a change.
const isFinal = (/** @type {number} */ code) => (code >= 4400 && code <= 4999) || FAULTS.has(code);

const NO_MESSAGE = "what came is no message of the protocol";
const BEGIN = "none.0"; // no log's position: following begins at the end of the one that there is

/**
 * @typedef {"connecting" | "open" | "lost" | "refused" | "closed"} State
 * @typedef {object} Detail
 * @property {number} [code]  Why the line was lost: the WebSocket's close code.
 * @property {string} [reason]  The same in words.
 * @property {number} [retryInSeconds]  When the next line is tried.
 * @property {string} [position]  Where in the log following goes on from.
 * @property {boolean} [isResumed]  Whether it was followed before this line.
 * @property {boolean} [isGap]  Whether something may have been missed since then.
 *
 * @typedef {(state: State, detail: Detail) => void} OnState
 * @typedef {import("./messages.js").TopicType} TopicType
 * @typedef {[type: TopicType, id: string | number]} Topic
 * @typedef {Record<string, any>} Message
 * @typedef {import("./messages.js").Actions} Actions  The fields of each action, and its reply's data.
 * @typedef {{[A in keyof Actions]: Actions[A]["data"] extends any[] ? A : never}[keyof Actions]} Lists
 *   The actions whose data is a list, in pages.
 * @typedef {import("./messages.js").Invoice} Invoice
 * @typedef {import("./messages.js").Price} Price
 * @typedef {import("./messages.js").Event & {isGap: false}} Event
 *   A change of what is followed: `data` is the whole new state, `previous` the changed fields' old values.
 * @typedef {{position: string, isGap: true, type?: undefined, data?: undefined, previous?: undefined}} Gap
 *   Events may be missing before this position: fetch again what matters.
 * @typedef {{token?: string, WebSocket?: typeof globalThis.WebSocket, onState?: OnState}} Options
 */

/** The server answered with an error, or does not let us in. */
export class Refused extends Error {
  /** @param {Message} reply */
  constructor(reply) {
    super(textOf(reply.message));
    this.name = "Refused";
    /** @type {string} One of the protocol's error codes. */
    this.code = textOf(reply.code) ?? "internal";
    /** @type {string | undefined} Which field, and why. */
    this.detail = textOf(reply.detail);
    const seconds = reply.retry_after_seconds ?? undefined;
    /** @type {number | undefined} When it may be worth a retry. */
    this.retryAfterSeconds = seconds === undefined ? undefined : boundedSeconds(seconds);
  }
}

/** No connection in time, or it was lost before the reply came: it is unknown whether the action was done. */
export class Disconnected extends Error {
  /** @param {string} message @param {Partial<Lost>} [lost] */
  constructor(message, { code, reason } = {}) {
    super(message);
    this.name = "Disconnected";
    /** @type {number | undefined} The WebSocket's close code, 1006 where it broke. */
    this.code = code;
    /** @type {string | undefined} What the server said of it, or what was found. */
    this.reason = reason;
  }
}

/**
 * Return a client of the server at a `ws://` or `wss://` URL; its lines are opened when they are needed.
 *
 * @param {string} [url]  In a browser: this page's own server.
 * @param {Options} [options]  `token`: the token to send. `WebSocket`: another class than the platform's.
 *   `onState`: called with every change of the connection that requests share.
 * @throws {SyntaxError}  The URL is none of these.
 */
export function connect(url, options = {}) {
  const place = url ?? location.origin.replace(/^http/, "ws");
  if (!/^wss?:\/\/./.test(place)) throw new SyntaxError(`${place} is no ws:// or wss:// URL`);
  return new Client(place, options);
}

/** Asks and follows; made by `connect`. */
export class Client {
  /** @type {Line | null} */
  #line = null;
  /** @type {Set<Following<any>>} */
  #followings = new Set();
  #closing = new AbortController();
  #backoff = new Backoff();
  #restsUntil = 0; // after the shared line was lost, in ms of performance.now
  /** @type {Lost | undefined} */
  #lost;
  #url;
  #options;

  /** @param {string} url @param {Options} options */
  constructor(url, options) {
    this.#url = url;
    this.#options = options;
  }

  /**
   * Do an action and return its reply's data, or the reply if it has no data. Of a list this is one page.
   * @template {keyof Actions} A
   * @param {A} action
   * @param {import("./messages.js").Fields<A>} rest  Its fields, as an object.
   * @returns {Promise<Actions[A]["data"]>}
   * @throws {Refused | Disconnected}
   */
  async call(action, ...rest) {
    /** @type {any} */
    const reply = await this.request(action, rest[0]);
    if (reply.status !== "success") throw new Refused(reply);
    return reply.data ?? reply;
  }

  /**
   * Iterate over the items of a list, which is read to its end: a page when its first item is wanted.
   * @template {Lists} A
   * @param {A} action
   * @param {import("./messages.js").Fields<A>} rest  Its fields, as an object; `limit` is a page's.
   * @returns {AsyncGenerator<Actions[A]["data"][number], void>}
   * @throws {Refused | Disconnected}
   */
  async *all(action, ...rest) {
    /** @type {Message} */
    const fields = { ...rest[0] };
    do {
      const reply = await this.request(action, fields);
      if (reply.status !== "success") throw new Refused(reply);
      const { items, next } = pageOf(reply, fields.cursor);
      yield* /** @type {any[]} */ (items);
      fields.cursor = next;
    } while (fields.cursor !== undefined);
  }

  /**
   * Do an action, also one that these types don't know, and return the whole reply, an error too.
   * @param {string} action
   * @param {Message} [fields]
   * @returns {Promise<Message>}
   * @throws {Refused | Disconnected}  `Refused`: the server does not let us in.
   */
  async request(action, fields = {}) {
    if (this.#line?.isLost) await this.#rest();
    if (this.#closing.signal.aborted) throw new Disconnected("the client was closed");
    if (!this.#line || this.#line.isLost) this.#line = this.#openLine();
    return this.#line.ask({ action, ...fields });
  }

  /** Leave the server alone for a while after a line was lost, as `follow` does. */
  async #rest() {
    const seconds = (this.#restsUntil - performance.now()) / 1000;
    if (seconds > REPLY_S) {
      const wish = `the server wants to be left alone for another ${Math.round(seconds)} s`;
      throw new Disconnected(`${wish}; the last line: ${this.#lost && inWords(this.#lost)}`, this.#lost);
    }
    if (seconds > 0) await sleep(seconds, this.#closing.signal);
  }

  /**
   * Iterate over a topic's state now, and then over each newer one, also after lost connections. If events
   * may have been missed, as after a restore, the state at that time comes, which may be an older one. Of an
   * account or an address: the state of each open invoice. `break` ends it.
   * @template {TopicType} T
   * @param {T} type
   * @param {string | number} id
   * @param {{onState?: OnState}} [options]  `onState`: as for `follow`.
   * @returns {Following<import("./messages.js").StateOf<T>>}
   */
  watch(type, id, { onState } = {}) {
    return /** @type {Following<any>} */ (this.#start(new States(type, id), onState));
  }

  /**
   * Follow topics: iterate over what comes, each event once and in order, across lost lines. `break` ends it.
   * @param {Topic[]} topics
   * @param {{after?: string, onState?: OnState}} [options]  `after`: a position to resume from. Default: now.
   *   `onState`: called with every change of its connection; `open` says from which position it follows.
   * @returns {Following<Event | Gap>}
   */
  follow(topics, { after, onState } = {}) {
    return this.#start(new Events(topics, after), onState);
  }

  /** @template T @param {Source<T>} source @param {OnState} [onState] @returns {Following<T>} */
  #start(source, onState) {
    const following = new Following(this.#url, this.#options, source, onState);
    this.#followings.add(following);
    following.ended.then(() => this.#followings.delete(following));
    return following;
  }

  /** Ask and follow no more. */
  close() {
    this.#closing.abort();
    this.#line?.close();
    for (const following of this.#followings) following.close();
  }

  #openLine() {
    /** @type {OnState} */
    const onState = (state, detail) => {
      try {
        this.#options.onState?.(state, detail);
      } catch (error) {
        console.error(error); // whose it is nobody waits for; the line is as good as before
      }
    };
    onState("connecting", {});
    const line = new Line(this.#url, this.#options);
    let begin = Infinity;
    line.opened.then((isOpen) => {
      if (!isOpen) return;
      begin = performance.now();
      onState("open", {});
    });
    line.lost.then((lost) => {
      const { code, reason } = lost;
      this.#lost = lost;
      this.#restsUntil = performance.now() + 1000 * this.#backoff.pauseAfter(lost, begin);
      onState(code === NORMAL ? "closed" : isFinal(code) ? "refused" : "lost", { code, reason });
    });
    return line;
  }
}

/**
 * What is made of a line's messages.
 * @template T
 * @typedef {object} Source
 * @property {string | undefined} position  Where in the log it goes on from.
 * @property {(line: Line, follow: Follow<T>) => Promise<void>} begin  Follow on a new line.
 * @property {(event: Event) => T[]} take  What is to be handed on of an event.
 */
/**
 * Called with the reply that begins following, as it comes, for events may come together with it.
 * @template T
 * @typedef {(found: T[], detail: {isResumed: boolean, isGap: boolean}) => void} Follow
 */

/** Topics' events, and gaps between them. @implements {Source<Event | Gap>} */
class Events {
  #topics;

  /** @param {Topic[]} topics @param {string} [after] */
  constructor(topics, after) {
    this.#topics = topics.map(([type, id]) => ({ type, id }));
    this.position = after;
  }

  /** @param {Line} line @param {Follow<Event | Gap>} follow */
  async begin(line, follow) {
    await resume(line, this.position ?? BEGIN, this.#topics, ({ position, recovered }) => {
      const isResumed = this.position !== undefined;
      if (!recovered) this.position = position; // else our own stays until its events have come
      const isGap = isResumed && !recovered;
      follow(isGap ? [{ position, isGap }] : [], { isResumed, isGap });
    });
  }

  /** @param {Event} event @returns {Event[]} */
  take({ type, data, previous, position }) {
    this.position = position;
    return [/** @type {any} */ ({ type, data, previous, position, isGap: false })];
  }
}

/**
 * A topic's states: those of now, and then each newer one. After a gap, those of now again.
 *
 * What is read may be newer than the first events after it. These are older states then, and are left out. A
 * list that is longer than a page is read to its end before its events are.
 * @implements {Source<Message>}
 */
class States {
  /** @type {string | undefined} */
  position;
  #isGap = false;
  /** @type {Map<unknown, any>} */
  #read = new Map(); // how new each state is that was read
  #topic;
  #kind;

  /** @param {string} type @param {string | number} id */
  constructor(type, id) {
    this.#topic = { type, id };
    this.#kind = type === "price" ? "price." : "invoice.";
  }

  /** @param {Line} line @param {Follow<Message>} follow */
  async begin(line, follow) {
    if (this.position !== undefined) {
      await resume(line, this.position, [this.#topic], ({ recovered }) => {
        if (recovered) return follow([], { isResumed: true, isGap: false });
        this.position = undefined; // until there is a snapshot
        this.#isGap = true;
      });
      if (this.position !== undefined) return;
      await demand(line, { action: "unsubscribe", ...this.#topic });
    }
    /** @type {any} */
    let first;
    const begun = (/** @type {Message[]} */ states) => {
      this.position = first.position;
      this.#read = new Map(states.map((state) => [keyOf(state), newness(state)]));
      const isGap = this.#isGap;
      this.#isGap = false;
      follow(states, { isResumed: isGap, isGap });
    };
    await demand(line, { action: "subscribe", ...this.#topic, snapshot: true }, (reply) => {
      first = followed(reply);
      first.states = statesOf([first.snapshot ?? []].flat());
      if (!first.next) begun(first.states);
    });
    if (!first.next) return;
    await demand(line, { action: "unsubscribe", ...this.#topic });
    /** @type {Message[]} */
    const later = [];
    const action = this.#kind === "price." ? "list_prices" : "list_invoices";
    for (let cursor = first.next; cursor; ) {
      const { items, next } = pageOf(await demand(line, { action, cursor }), cursor);
      for (const state of items) later.push(state); // not as arguments: a stack has room for some 100 000
      cursor = next;
    }
    await resume(line, first.position, [this.#topic], ({ recovered }) => {
      if (!recovered) throw new Disconnected("the log was lost meanwhile"); // once more, from the beginning
      begun([...first.states, ...later]);
    });
  }

  /** @param {Event} event @returns {Message[]} */
  take({ type, data, position }) {
    this.position = position;
    if (!type.startsWith(this.#kind)) return [];
    const read = this.#read.get(keyOf(data));
    return read === undefined || newness(data) > read ? [data] : [];
  }
}

/** What an invoice or a price is known by. @param {Message} state */
function keyOf({ uid, id }) {
  return uid ?? id;
}

/** What grows with each change of an invoice, or of a price. @param {Message} state */
function newness({ version, updatedAt }) {
  return version ?? updatedAt;
}

/**
 * Ask for what has to be.
 * @param {Line} line
 * @param {Message} request
 * @param {(reply: Message) => void} [take]
 * @returns {Promise<Message>}
 */
function demand(line, request, take = () => {}) {
  return line.ask(request, (reply) => {
    if (reply.status !== "success") throw new Refused(reply);
    take(reply);
  });
}

/** What a reply says of where following begins. @param {Message} reply @returns {Message} */
function followed({ data }) {
  if (typeof data?.position !== "string") throw new Disconnected(NO_MESSAGE);
  return data;
}

/** What came as a list of states or items. @param {any} list @returns {Message[]} */
function statesOf(list) {
  if (!Array.isArray(list) || !list.every(isObject)) throw new Disconnected(NO_MESSAGE);
  return list;
}

/**
 * Return the page in a reply to a request with a cursor. One that names itself as the next would have no end.
 * @param {Message} reply @param {string} [cursor] @returns {{items: Message[], next: string | undefined}}
 */
function pageOf({ data, next = null }, cursor) {
  if (next !== null && (typeof next !== "string" || next === cursor)) throw new Disconnected(NO_MESSAGE);
  return { items: statesOf(data), next: next ?? undefined };
}

/**
 * Follow topics from a position on, named in as many messages as it takes.
 * @param {Line} line @param {string} after @param {Message[]} topics @param {(data: Message) => void} take
 */
async function resume(line, after, topics, take) {
  /** @type {Message[]} */
  let batch = [];
  let size = 0;
  for (const topic of topics) {
    size += JSON.stringify(topic).length + 1;
    if (batch.length && size > BATCH_CHARACTERS) {
      await demand(line, { action: "resume", after, topics: batch, more: true });
      batch = [];
      size = 0;
    }
    batch.push(topic);
  }
  await demand(line, { action: "resume", after, topics: batch }, (reply) => take(followed(reply)));
}

/**
 * Follows on a connection of its own, and resumes after each loss; made by `Client.follow` and `watch`.
 * @template T
 */
export class Following {
  /** @type {Queue<T>} What came and was not taken yet. */
  #queue = new Queue();
  #isFull = false;
  /** @type {Error | undefined} */
  #error;
  /** @type {Line | undefined} */
  #line;
  #isFollowed = false;
  #changed = new Signal();
  #closing = new AbortController();
  #source;
  #onState;

  /**
   * @param {string} url
   * @param {Options} options
   * @param {Source<T>} source
   * @param {OnState} [onState]
   */
  constructor(url, options, source, onState = () => {}) {
    this.#source = source;
    this.#onState = onState;
    /** Fulfilled when it is followed no more. @type {Promise<void>} */
    this.ended = this.#run(() => new Line(url, options, (event) => this.#receive(event)))
      // As of a WebSocket that a page may not open: the iterator throws it.
      .catch((error) => (this.#error = error))
      .then(() => this.close());
  }

  /** Follow no more; what came is still there to be taken. */
  close() {
    this.#closing.abort();
    this.#line?.close();
    this.#changed.notify();
  }

  /** @returns {AsyncIterator<T, void>} */
  [Symbol.asyncIterator]() {
    return {
      next: () => this.#next(),
      return: async () => {
        this.close();
        return { value: undefined, done: true };
      },
    };
  }

  /** @returns {Promise<IteratorResult<T, void>>} */
  async #next() {
    for (;;) {
      const value = this.#queue.shift();
      if (this.#isFull && this.#queue.size === 0) {
        this.#isFull = false;
        this.#changed.notify();
      }
      if (value) return { value, done: false };
      if (this.#error) throw this.#error;
      if (this.#closing.signal.aborted) return { value: undefined, done: true };
      await this.#changed.wait();
    }
  }

  /** @param {() => Line} open */
  async #run(open) {
    const backoff = new Backoff();
    while (!this.#closing.signal.aborted && !this.#error) {
      this.#onState("connecting", {});
      const line = (this.#line = open());
      this.#isFollowed = false;
      let begin = Infinity;
      try {
        await this.#source.begin(line, (found, detail) => {
          begin = performance.now();
          this.#isFollowed = true;
          this.#put(found);
          this.#onState("open", { position: this.#source.position, ...detail });
        });
      } catch (error) {
        if (!(error instanceof Refused || error instanceof Disconnected)) throw error;
        line.lose(ABNORMAL, error.message, error instanceof Refused ? error : undefined);
      }
      const lost = await line.lost;
      const seconds = backoff.pauseAfter(lost, begin);
      if (!this.#closing.signal.aborted) await this.#pauseAfter(lost, seconds);
    }
    if (!this.#error) this.#onState("closed", {});
  }

  /** @param {Message} event */
  #receive(event) {
    if (!this.#isFollowed) return; // a gap, behind which a snapshot comes
    this.#put(this.#source.take(/** @type {Event} */ (event)));
    if (this.#queue.size >= MOST_WAITING) {
      this.#isFull = true;
      this.#line?.lose(ABNORMAL, "more came than was taken");
    }
  }

  /** @param {T[]} found */
  #put(found) {
    this.#queue.push(found);
    this.#changed.notify();
  }

  /** @param {Lost} lost @param {number} seconds */
  async #pauseAfter({ code, reason, error }, seconds) {
    if (error && error.retryAfterSeconds === undefined) {
      this.#error = error;
      this.#onState("refused", { code, reason: reason || error.message });
      return;
    }
    this.#onState("lost", { code, reason, retryInSeconds: seconds });
    await sleep(seconds, this.#closing.signal);
    while (this.#isFull && !this.#closing.signal.aborted) await this.#changed.wait();
  }
}

/**
 * @typedef {{code: number, reason: string, error?: Refused}} Lost
 *   How a connection ended; `error`: the server refused us.
 */

/** How a line ended. @param {Lost} lost @returns {string} */
function inWords({ code, reason }) {
  if (code === ABNORMAL) return reason || "the connection broke";
  const fault = FAULTS.get(code);
  return `closed with ${code}${reason && ` (${reason})`}${fault ? `: ${fault}` : ""}`;
}

/** How long to wait before each next line: longer and longer, until one has held. */
class Backoff {
  #pauses = jitter();

  /**
   * How long to wait after a line that was lost now, in seconds.
   * @param {Lost} lost
   * @param {number} begin  When it was open, in ms of performance.now; Infinity: never.
   * @returns {number}
   */
  pauseAfter({ reason, error }, begin) {
    if (performance.now() - begin >= 1000 * HELD_S) this.#pauses = jitter();
    const asked = error?.retryAfterSeconds ?? boundedSeconds(/^retry_after=(.*)$/s.exec(reason)?.[1]);
    return asked + this.#pauses.next().value; // who are told the same don't come at once
  }
}

/**
 * How long a server wants to be left alone, of whatever it said: 0 where that makes no sense.
 * @param {unknown} said @returns {number}
 */
function boundedSeconds(said) {
  const seconds = typeof said === "number" || typeof said === "string" ? Number(said) : NaN;
  return Math.min(Math.max(seconds || 0, 0), MOST_S);
}

/** What is a text, and nothing else. @param {unknown} said @returns {string | undefined} */
function textOf(said) {
  return typeof said === "string" ? said : undefined;
}

/**
 * @typedef {object} Asked
 * @property {(reply: Message) => void} take
 * @property {(reply: Message) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {any} timer
 */

/** A WebSocket on which requests and replies pass, matched by request_id; events go to who wants them. */
class Line {
  isLost = false;
  #number = 0;
  /** @type {Map<number, Asked>} */
  #asked = new Map();
  /** @type {(lost: Lost) => void} */
  #end = () => {};
  /** @type {Lost | undefined} */
  #lost;
  /** @type {any} */
  #silence;
  #socket;

  /**
   * @param {string} url
   * @param {Options} options
   * @param {(event: Message) => void} [onEvent]
   */
  constructor(url, { token, WebSocket = globalThis.WebSocket }, onEvent = () => {}) {
    /** @type {Promise<Lost>} */
    this.lost = new Promise((resolve) => (this.#end = resolve));
    const socket = (this.#socket = new WebSocket(url, "trio-ws"));
    const late = setTimeout(() => this.lose(ABNORMAL, "it did not open in time"), 1000 * OPEN_S);
    this.lost.then(() => clearTimeout(late));
    /** Whether it came to be open, and we are who we say. @type {Promise<boolean>} */
    this.opened = new Promise((resolve) => {
      this.lost.then(() => resolve(false));
      socket.onopen = () => {
        clearTimeout(late);
        this.#listen();
        resolve(token ? this.#authenticate(token) : true);
      };
    });
    socket.onclose = ({ code, reason }) => this.lose(code, reason);
    socket.onerror = () => this.lose(ABNORMAL, ""); // after it, Node 20 sends no `close`; others send 1006
    socket.onmessage = ({ data }) => {
      const message = parse(data);
      if (message?.status !== undefined) this.#answer(message);
      else if (isEvent(message)) onEvent(message);
      else this.lose(ABNORMAL, NO_MESSAGE);
      this.#listen();
    };
  }

  /**
   * Send a request, and return its reply.
   * @param {Message} request
   * @param {(reply: Message) => void} [take]  Called with the reply before anything that comes behind it.
   * @returns {Promise<Message>}
   */
  async ask(request, take) {
    if (!(await this.opened)) throw this.#failure("before it was open");
    return this.#send(request, take);
  }

  /** End it. */
  close() {
    this.lose(NORMAL, "");
  }

  /**
   * End it, and say why to who asked.
   * @param {number} code
   * @param {string} reason
   * @param {Refused} [error]
   */
  lose(code, reason, error) {
    if (this.isLost) return;
    this.isLost = true;
    clearTimeout(this.#silence);
    this.#socket.onmessage = null; // what still comes is nobody's
    this.#socket.close(NORMAL);
    if (isFinal(code)) {
      error ??= new Refused({
        message: inWords({ code, reason }),
        code: FAULTS.has(code) ? "invalid_message" : code === UNAUTHORIZED ? "unauthorized" : "forbidden",
      });
    }
    this.#lost = { code, reason, error };
    this.#end(this.#lost);
    for (const { reject, timer } of this.#asked.values()) {
      clearTimeout(timer);
      reject(this.#failure("before the reply came"));
    }
    this.#asked.clear();
  }

  /**
   * Authenticate in a message, because a browser does not show why a handshake was refused.
   * @param {string} token
   */
  async #authenticate(token) {
    try {
      const reply = await this.#send({ action: "authenticate", token });
      if (reply.status === "success") return true;
      const isFinal = reply.retry_after_seconds === undefined;
      this.lose(isFinal ? UNAUTHORIZED : ABNORMAL, reply.message, new Refused(reply));
    } catch {
      // It was lost; those that wait for it are rejected.
    }
    return false;
  }

  /** @param {Message} request @param {(reply: Message) => void} [take] @returns {Promise<Message>} */
  #send(request, take = () => {}) {
    const number = ++this.#number;
    return new Promise((resolve, reject) => {
      const text = JSON.stringify({ ...request, request_id: number }); // which may fail, as of a BigInt
      if (this.isLost) return reject(this.#failure("before the request was sent"));
      const timer = setTimeout(() => this.lose(ABNORMAL, "no reply in time"), 1000 * REPLY_S);
      this.#asked.set(number, { take, resolve, reject, timer });
      this.#socket.send(text);
    });
  }

  /** @param {Message} reply */
  #answer({ request_id: number, ...reply }) {
    const asked = this.#asked.get(number);
    if (!asked) return;
    this.#asked.delete(number);
    clearTimeout(asked.timer);
    try {
      asked.take(reply);
      asked.resolve(reply);
    } catch (error) {
      asked.reject(/** @type {Error} */ (error));
    }
  }

  /** Something came, so it lives; after a silence, ask whether it still does. */
  #listen() {
    clearTimeout(this.#silence);
    const ping = () => this.#send({ action: "ping" }).catch(() => {});
    if (!this.isLost) this.#silence = setTimeout(ping, 1000 * SILENCE_S);
  }

  /** What to say to who asks on a line that was lost. @param {string} when @returns {Error} */
  #failure(when) {
    const lost = this.#lost ?? { code: ABNORMAL, reason: "" };
    return lost.error ?? new Disconnected(`the line was lost ${when}: ${inWords(lost)}`, lost);
  }
}

/** @param {any} data @returns {any} What it says; undefined where it is no JSON. */
function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}

/** @param {any} message */
function isEvent(message) {
  return typeof message?.type === "string" && typeof message.position === "string" && isObject(message.data);
}

/** @param {any} value */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * First in, first out, without a step for each that waits: `shift` of an array has one.
 * @template T
 */
class Queue {
  /** @type {T[]} The later ones. */
  #came = [];
  /** @type {T[]} The earlier ones, the first of all last. */
  #leaving = [];

  get size() {
    return this.#came.length + this.#leaving.length;
  }

  /** @param {T[]} items */
  push(items) {
    for (const item of items) this.#came.push(item);
  }

  /** @returns {T | undefined} */
  shift() {
    if (!this.#leaving.length) [this.#leaving, this.#came] = [this.#came.reverse(), this.#leaving];
    return this.#leaving.pop();
  }
}

/** Wakes all that wait for a change. */
class Signal {
  /** @type {(() => void)[]} */
  #waiting = [];

  /** @returns {Promise<void>} */
  wait() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  notify() {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** How long to wait before each next try, in seconds. @returns {Generator<number, never>} */
function* jitter() {
  for (let bound = FIRST_PAUSE_S; ; bound = Math.min(2 * bound, LONGEST_PAUSE_S)) yield Math.random() * bound;
}

/**
 * Wait; shorter, when the network is back before that, or nobody has a use for waiting any more.
 * @param {number} seconds @param {AbortSignal} ending @returns {Promise<void>}
 */
function sleep(seconds, ending) {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer);
      ending.removeEventListener("abort", over);
      globalThis.removeEventListener?.("online", over);
      resolve();
    };
    const timer = setTimeout(over, 1000 * seconds);
    ending.addEventListener("abort", over);
    globalThis.addEventListener?.("online", over);
  });
}
