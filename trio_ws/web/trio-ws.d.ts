/**
 * Return a client of the server at a `ws://` or `wss://` URL; its lines are opened when they are needed.
 *
 * @param {string} [url]  In a browser: this page's own server.
 * @param {Options} [options]  `token`: the token to send. `WebSocket`: another class than the platform's.
 *   `onState`: called with every change of the connection that requests share.
 * @throws {SyntaxError}  The URL is none of these.
 */
export function connect(url?: string, options?: Options): Client;
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
    constructor(reply: Message);
    /** @type {string} One of the protocol's error codes. */
    code: string;
    /** @type {string | undefined} Which field, and why. */
    detail: string | undefined;
    /** @type {number | undefined} When it may be worth a retry. */
    retryAfterSeconds: number | undefined;
}
/** No connection in time, or it was lost before the reply came: it is unknown whether the action was done. */
export class Disconnected extends Error {
    /** @param {string} message @param {Partial<Lost>} [lost] */
    constructor(message: string, { code, reason }?: Partial<Lost>);
    /** @type {number | undefined} The WebSocket's close code, 1006 where it broke. */
    code: number | undefined;
    /** @type {string | undefined} What the server said of it, or what was found. */
    reason: string | undefined;
}
/** Asks and follows; made by `connect`. */
export class Client {
    /** @param {string} url @param {Options} options */
    constructor(url: string, options: Options);
    /**
     * Do an action and return its reply's data, or the reply if it has no data. Of a list this is one page.
     * @template {keyof Actions} A
     * @param {A} action
     * @param {import("./messages.js").Fields<A>} rest  Its fields, as an object.
     * @returns {Promise<Actions[A]["data"]>}
     * @throws {Refused | Disconnected}
     */
    call<A extends keyof Actions>(action: A, ...rest: import("./messages.js").Fields<A>): Promise<Actions[A]["data"]>;
    /**
     * Iterate over the items of a list, which is read to its end: a page when its first item is wanted.
     * @template {Lists} A
     * @param {A} action
     * @param {import("./messages.js").Fields<A>} rest  Its fields, as an object; `limit` is a page's.
     * @returns {AsyncGenerator<Actions[A]["data"][number], void>}
     * @throws {Refused | Disconnected}
     */
    all<A extends Lists>(action: A, ...rest: import("./messages.js").Fields<A>): AsyncGenerator<Actions[A]["data"][number], void>;
    /**
     * Do an action, also one that these types don't know, and return the whole reply, an error too.
     * @param {string} action
     * @param {Message} [fields]
     * @returns {Promise<Message>}
     * @throws {Refused | Disconnected}  `Refused`: the server does not let us in.
     */
    request(action: string, fields?: Message): Promise<Message>;
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
    watch<T extends TopicType>(type: T, id: string | number, { onState }?: {
        onState?: OnState;
    }): Following<import("./messages.js").StateOf<T>>;
    /**
     * Follow topics: iterate over what comes, each event once and in order, across lost lines. `break` ends it.
     * @param {Topic[]} topics
     * @param {{after?: string, onState?: OnState}} [options]  `after`: a position to resume from. Default: now.
     *   `onState`: called with every change of its connection; `open` says from which position it follows.
     * @returns {Following<Event | Gap>}
     */
    follow(topics: Topic[], { after, onState }?: {
        after?: string;
        onState?: OnState;
    }): Following<Event | Gap>;
    /** Ask and follow no more. */
    close(): void;
    #private;
}
/**
 * Follows on a connection of its own, and resumes after each loss; made by `Client.follow` and `watch`.
 * @template T
 */
export class Following<T> {
    /**
     * @param {string} url
     * @param {Options} options
     * @param {Source<T>} source
     * @param {OnState} [onState]
     */
    constructor(url: string, options: Options, source: Source<T>, onState?: OnState);
    /** Fulfilled when it is followed no more. @type {Promise<void>} */
    ended: Promise<void>;
    /** Follow no more; what came is still there to be taken. */
    close(): void;
    /** @returns {AsyncIterator<T, void>} */
    [Symbol.asyncIterator](): AsyncIterator<T, void>;
    #private;
}
/**
 * How a connection ended; `error`: the server refused us.
 */
export type Lost = {
    code: number;
    reason: string;
    error?: Refused;
};
export type State = "connecting" | "open" | "lost" | "refused" | "closed";
export type Detail = {
    /**
     * Why the line was lost: the WebSocket's close code.
     */
    code?: number | undefined;
    /**
     * The same in words.
     */
    reason?: string | undefined;
    /**
     * When the next line is tried.
     */
    retryInSeconds?: number | undefined;
    /**
     * Where in the log following goes on from.
     */
    position?: string | undefined;
    /**
     * Whether it was followed before this line.
     */
    isResumed?: boolean | undefined;
    /**
     * Whether something may have been missed since then.
     */
    isGap?: boolean | undefined;
};
export type OnState = (state: State, detail: Detail) => void;
export type TopicType = import("./messages.js").TopicType;
export type Topic = [type: TopicType, id: string | number];
export type Message = Record<string, any>;
/**
 * The fields of each action, and its reply's data.
 */
export type Actions = import("./messages.js").Actions;
/**
 * The actions whose data is a list, in pages.
 */
export type Lists = { [A in keyof Actions]: Actions[A]["data"] extends any[] ? A : never; }[keyof Actions];
export type Invoice = import("./messages.js").Invoice;
export type Price = import("./messages.js").Price;
/**
 * A change of what is followed: `data` is the whole new state, `previous` the changed fields' old values.
 */
export type Event = import("./messages.js").Event & {
    isGap: false;
};
/**
 * Events may be missing before this position: fetch again what matters.
 */
export type Gap = {
    position: string;
    isGap: true;
    type?: undefined;
    data?: undefined;
    previous?: undefined;
};
export type Options = {
    token?: string;
    WebSocket?: typeof globalThis.WebSocket;
    onState?: OnState;
};
/**
 * What is made of a line's messages.
 */
export type Source<T> = {
    /**
     * Where in the log it goes on from.
     */
    position: string | undefined;
    /**
     * Follow on a new line.
     */
    begin: (line: Line, follow: Follow<T>) => Promise<void>;
    /**
     * What is to be handed on of an event.
     */
    take: (event: Event) => T[];
};
/**
 * Called with the reply that begins following, as it comes, for events may come together with it.
 */
export type Follow<T> = (found: T[], detail: {
    isResumed: boolean;
    isGap: boolean;
}) => void;
export type Asked = {
    take: (reply: Message) => void;
    resolve: (reply: Message) => void;
    reject: (error: Error) => void;
    timer: any;
};
/**
 * @typedef {object} Asked
 * @property {(reply: Message) => void} take
 * @property {(reply: Message) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {any} timer
 */
/** A WebSocket on which requests and replies pass, matched by request_id; events go to who wants them. */
declare class Line {
    /**
     * @param {string} url
     * @param {Options} options
     * @param {(event: Message) => void} [onEvent]
     */
    constructor(url: string, { token, WebSocket }: Options, onEvent?: (event: Message) => void);
    isLost: boolean;
    /** @type {Promise<Lost>} */
    lost: Promise<Lost>;
    /** Whether it came to be open, and we are who we say. @type {Promise<boolean>} */
    opened: Promise<boolean>;
    /**
     * Send a request, and return its reply.
     * @param {Message} request
     * @param {(reply: Message) => void} [take]  Called with the reply before anything that comes behind it.
     * @returns {Promise<Message>}
     */
    ask(request: Message, take?: (reply: Message) => void): Promise<Message>;
    /** End it. */
    close(): void;
    /**
     * End it, and say why to who asked.
     * @param {number} code
     * @param {string} reason
     * @param {Refused} [error]
     */
    lose(code: number, reason: string, error?: Refused): void;
    #private;
}
export {};
