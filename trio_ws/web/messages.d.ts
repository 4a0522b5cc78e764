// Made by scripts/types from the structs that the server decodes and encodes: change those.

/** An account. */
export interface Account {
  /** Its number. */
  id: number;
  /** What people call it. */
  name: string;
  createdAt: string;
}

/** Become who a token says. */
export interface Authenticate {
  action: "authenticate";
  /** As it was shown when it was made. */
  token: string;
  request_id?: string | number | null;
}

export interface AuthenticateReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Authenticated;
}

/** The data of a reply to `authenticate`. */
export interface Authenticated {
  /** Whose the token is; null: an operator's, for all accounts. */
  account_id: number | null;
  scopes: (string)[];
  expiresAt: string | null;
}

/** Cancel an unpaid invoice. */
export interface CancelInvoice {
  action: "cancel_invoice";
  /** Which. */
  uid: string;
  request_id?: string | number | null;
}

export interface CancelInvoiceReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Invoice;
}

/** An open WebSocket or event stream. */
export interface Connected {
  /** Names it as long as it is open. */
  id: string;
  kind: "websocket" | "event_stream";
  /** Where the client is, if that is known; of IPv6, the network. */
  address: string | null;
  /** Whose its token is; null: it has none, or an operator's. */
  account_id: number | null;
  /** Which token it has, if it has one. */
  token_id: number | null;
  /** What it may do. */
  scopes: (string)[];
  openedAt: string;
  /** What it follows, as type and id; the first 20. */
  topics: (string)[];
  /** How many topics it follows. */
  topic_count: number;
  /** Bytes that the client has not read yet. */
  waiting_bytes: number;
  /** Whether it is behind, and reads older events from the log. */
  is_catching_up: boolean;
  /** How many requests it has sent. */
  requests: number;
  /** How many messages it was sent. */
  messages: number;
}

/** Ask what an amount of one currency comes to in another. */
export interface ConvertPrice {
  action: "convert_price";
  /** From this one. */
  quote_currency: string;
  /** To this one. */
  base_currency: string;
  /** How much, in major units. */
  quote_value: number | string;
  request_id?: string | number | null;
}

export interface ConvertPriceReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Converted;
}

/** The data of a reply to `convert_price`. */
export interface Converted {
  quote_currency: string;
  base_currency: string;
  quote_value: number;
  /** Rounded to the smallest unit of `base_currency`; 18 decimals where that is unknown. */
  base_value: number;
  /** Since when the price that it rests on is in force; of two prices, the older one's. */
  timestamp: string;
}

/** Create an account. */
export interface CreateAccount {
  action: "create_account";
  /** What people call it. */
  name: string;
  request_id?: string | number | null;
}

export interface CreateAccountReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Account;
}

/** Make an invoice. */
export interface CreateInvoice {
  action: "create_invoice";
  /** What it is over, in the smallest unit of `currency`. */
  amount: number;
  /** Three letters, or a ticker. */
  currency: string;
  /** Whose it is; may be left out where a token names it. */
  account_id?: number | null;
  /** Whatever the merchant wants to remember. */
  memo?: string | null;
  /** Where it is to be paid; can be followed as a topic. */
  address?: string | null;
  /** Where its events are POSTed. */
  webhook_url?: string | null;
  /** Where a checkout page leads once it is paid. */
  redirect_url?: string | null;
  /** After that it is expired, if nobody has paid. */
  expires_in_seconds?: number | null;
  /** Names this request for good: the same one again gets the invoice that there is. */
  idempotency_key?: string | null;
  request_id?: string | number | null;
}

export interface CreateInvoiceReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Invoice;
}

/** Create a token. The reply shows it; it cannot be shown again. */
export interface CreateToken {
  action: "create_token";
  /** `read`, `write` and `process`; or `admin`, for an operator. */
  scopes: ("admin" | "process" | "read" | "write")[];
  /** Whose it is. Leave out with `admin`. */
  account_id?: number | null;
  /** How long it is valid. Default: until it is revoked. */
  expires_in_seconds?: number | null;
  request_id?: string | number | null;
}

export interface CreateTokenReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Token;
}

/** Close a connection with code 1001. Clients reconnect: to keep one out, revoke its token. */
export interface EndConnection {
  action: "end_connection";
  /** As `list_connections` shows it. */
  id: string;
  request_id?: string | number | null;
}

export interface EndConnectionReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
}

/** The reply to an action that was not done. */
export interface Failure {
  status: "error";
  message: string;
  /** conflict: What the action would change is not in a state that allows it.; forbidden: The token does not allow it.; idempotency_mismatch: The idempotency key stands for another request.; internal: A bug; the log has it.; invalid_message: The frame holds no known action with all of its fields.; invalid_topic: There is no topic of that type and id.; invalid_value: The action is known and whole, but one of its fields has a value that can't be.; not_found: What the action names does not exist.; rate_limited: The client asks for more than it may, and when it may again is known.; timeout: PostgreSQL took too long, and what was asked of it has been undone.; too_many_subscriptions: The connection follows as many topics as it may.; unauthorized: There is no token, or none that is good.; unavailable: PostgreSQL could not be reached; whether a write was done may be unknown. */
  code: "conflict" | "forbidden" | "idempotency_mismatch" | "internal" | "invalid_message" | "invalid_topic" | "invalid_value" | "not_found" | "rate_limited" | "timeout" | "too_many_subscriptions" | "unauthorized" | "unavailable";
  detail?: string;
  retry_after_seconds?: number;
  request_id?: string | number;
}

/** Read what the processes of this server measure, summed. */
export interface FetchFigures {
  action: "fetch_figures";
  request_id?: string | number | null;
}

export interface FetchFiguresReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Figures;
}

/** Read an invoice. */
export interface FetchInvoice {
  action: "fetch_invoice";
  /** Its `uid`. */
  id: string;
  request_id?: string | number | null;
}

export interface FetchInvoiceReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Invoice;
}

/** Read a webhook with its URL and body. */
export interface FetchWebhook {
  action: "fetch_webhook";
  /** As `list_webhooks` shows it; receivers know it as `trio-ws-delivery`. */
  id: string;
  request_id?: string | number | null;
}

export interface FetchWebhookReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Webhook;
}

/** What the processes of this server measure. */
export interface Figures {
  /** Of trio_ws. */
  version: string;
  /** Their ids; what is counted begins at 0 in each. */
  processes: (number)[];
  /** How many processes did not answer. */
  missing: number;
  /** As Prometheus is shown them, by name; each summed over labels and processes, or the largest. */
  values: Record<string, number>;
}

/** An invoice, the protocol's INVOICE. */
export interface Invoice {
  /** Its number. */
  id: number;
  /** Its name, which nobody can guess. */
  uid: string;
  /** In the smallest unit of `currency`. */
  amount: number;
  currency: string;
  status: "unpaid" | "confirming" | "paid" | "expired" | "cancelled";
  account_id: number;
  createdAt: string;
  updatedAt: string;
  memo?: string;
  webhook_url?: string;
  redirect_url?: string;
  address?: string;
  expiresAt?: string;
  /** The sum of its settled payments, where that is not 0. */
  amount_paid?: number;
  /** The sum of its pending payments, where that is not 0. */
  amount_pending?: number;
  /** Grows by one with each change. */
  version: number;
}

export interface InvoiceCreated {
  type: "invoice.created";
  data: Invoice;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Invoice>;
  position: Position;
}

export interface InvoiceUpdated {
  type: "invoice.updated";
  data: Invoice;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Invoice>;
  position: Position;
}

/** Read accounts by id, page by page. An account's token sees its own. */
export interface ListAccounts {
  action: "list_accounts";
  /** The `next` of the page before. */
  cursor?: string | null;
  /** Maximum number of accounts. Default: 50. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListAccountsReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Account)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read the open WebSockets and event streams of all processes of this server, the newest first. */
export interface ListConnections {
  action: "list_connections";
  /** Only connections with a token of this account. */
  account_id?: number | null;
  /** Only connections from this address. */
  address?: string | null;
  /** Only connections with data that the client has not read yet. */
  waiting?: boolean | null;
  /** The `next` of the page before. */
  cursor?: string | null;
  /** Maximum number of connections. Default: 50. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListConnectionsReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Connected)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read the events of an invoice and its payments, the oldest first, page by page. */
export interface ListEvents {
  action: "list_events";
  /** Of which invoice. */
  uid: string;
  /** The `next` of the page before. */
  cursor?: string | null;
  /** Maximum number of events. Default: 50. A page also ends after 128 KiB. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListEventsReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (LoggedEvent)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read invoices, the newest first, page by page. */
export interface ListInvoices {
  action: "list_invoices";
  /** Only invoices of this account; a token of an account sees only its own. */
  account_id?: number | null;
  /** Only invoices with this status. */
  status?: "cancelled" | "confirming" | "expired" | "paid" | "unpaid" | null;
  /** Only invoices to be paid there. */
  address?: string | null;
  /** Only invoices whose memo contains this text; upper and lower case are the same. */
  memo?: string | null;
  /** The `next` of the page before, or of a snapshot. */
  cursor?: string | null;
  /** Maximum number of invoices. Default: 50. A page also ends after 128 KiB. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListInvoicesReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Invoice)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read an invoice's payments, the oldest first, page by page. */
export interface ListPayments {
  action: "list_payments";
  /** Of which invoice. */
  uid: string;
  /** The `next` of the page before. */
  cursor?: string | null;
  /** How many at most, 50 unless told; 128 KiB end a page too. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListPaymentsReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Payment)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read the account's prices, and of all others the latest of each pair, page by page. */
export interface ListPrices {
  action: "list_prices";
  /** The `next` of the page before, or of a snapshot. */
  cursor?: string | null;
  request_id?: string | number | null;
}

export interface ListPricesReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Price)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read tokens by id, page by page, without what is secret. An account's token sees the account's. */
export interface ListTokens {
  action: "list_tokens";
  /** Only tokens of this account. */
  account_id?: number | null;
  /** The `next` of the page before. */
  cursor?: string | null;
  /** Maximum number of tokens. Default: 50. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListTokensReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Token)[];
  /** The cursor of the next page. */
  next?: string;
}

/** Read webhooks, the newest first, page by page. */
export interface ListWebhooks {
  action: "list_webhooks";
  /** Only webhooks of this account. */
  account_id?: number | null;
  /** Only webhooks in this state. */
  state?: "delivered" | "failed" | "waiting" | null;
  /** Only webhooks of this invoice, delivered ones too. */
  uid?: string | null;
  /** The `next` of the page before. */
  cursor?: string | null;
  /** Maximum number of webhooks. Default: 50. */
  limit?: number | null;
  request_id?: string | number | null;
}

export interface ListWebhooksReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: (Webhook)[];
  /** The cursor of the next page. */
  next?: string;
}

/** An event of the log, as followers get it. */
export interface LoggedEvent {
  type: "invoice.created" | "invoice.updated" | "payment.created" | "payment.updated";
  /** The whole new state. */
  data: Invoice | Payment;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Invoice | Payment>;
  position: Position;
}

/** Money that moved for an invoice, the protocol's PAYMENT. */
export interface Payment {
  id: number;
  /** The uid of the invoice that it is for. */
  invoice: string;
  /** What names it; an invoice has one payment of each. */
  reference: string;
  /** In the smallest unit of `currency`; below 0: it went back. */
  amount: number;
  /** The invoice's. */
  currency: string;
  status: "pending" | "settled" | "failed";
  /** Whose the invoice is. */
  account_id: number;
  createdAt: string;
  updatedAt: string;
  /** Grows by one with each change. */
  version: number;
}

export interface PaymentCreated {
  type: "payment.created";
  data: Payment;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Payment>;
  position: Position;
}

export interface PaymentUpdated {
  type: "payment.updated";
  data: Payment;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Payment>;
  position: Position;
}

/** Ask whether the server is there. */
export interface Ping {
  action: "ping";
  request_id?: string | number | null;
}

/** The reply to `ping`; `timestamp` is in Unix seconds. */
export interface Pong {
  type: "pong";
  status?: string;
  timestamp: number;
  request_id?: string | number;
}

/** A place in the event log; opaque to clients. */
export type Position = string;

/** What one `currency` costs, the protocol's PRICE. */
export interface Price {
  id: number;
  currency: string;
  /** The price in the smallest unit of `base_currency`. */
  amount: number;
  /** Whose price it is. */
  account_id: number;
  createdAt: string;
  updatedAt: string;
  base_currency: string;
  /** The same in major units. */
  value: number;
}

export interface PriceUpdated {
  type: "price.updated";
  data: Price;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Price>;
  position: Position;
}

/** Record that money moved, or what has become of it since. */
export interface RecordPayment {
  action: "record_payment";
  /** Of the invoice that it is for. */
  uid: string;
  /** What names it, as a transaction's id does: the same one again changes what there is. */
  reference: string;
  /** In the smallest unit of the invoice's currency; below 0: it went back. */
  amount: number;
  /** Pending until it is settled or has failed; what was settled may still fail. */
  status: "failed" | "pending" | "settled";
  /** The invoice's; given, it is checked. */
  currency?: string | null;
  request_id?: string | number | null;
}

export interface RecordPaymentReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Payment;
}

/** Give an account another name. */
export interface RenameAccount {
  action: "rename_account";
  /** Which one. */
  account_id: number;
  /** Its new name. */
  name: string;
  request_id?: string | number | null;
}

export interface RenameAccountReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Account;
}

/** That of the request, if it had one. */
export type RequestId = string | number;

/** Follow many topics from one position on, all in one order. */
export interface Resume {
  action: "resume";
  /** The position: all that came after it is told first. */
  after: string;
  /** What to follow, as `{"type": …, "id": …}` each. */
  topics: (WantedTopic)[];
  /** Whether the next `resume` names more of them: the last one follows all, as one message would. */
  more?: boolean | null;
  request_id?: string | number | null;
}

export interface ResumeReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Subscribed;
}

/** Send a webhook now: one that waits or has failed, or once more one that was delivered. */
export interface RetryWebhook {
  action: "retry_webhook";
  /** As `list_webhooks` shows it. */
  id: string;
  request_id?: string | number | null;
}

export interface RetryWebhookReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Webhook;
}

/** Revoke a token. Its connections end within a second. */
export interface RevokeToken {
  action: "revoke_token";
  /** As `list_tokens` shows it. */
  id: number;
  request_id?: string | number | null;
}

export interface RevokeTokenReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Token;
}

/** Say what a currency costs. */
export interface SetPrice {
  action: "set_price";
  /** What has a price. */
  currency: string;
  /** What the price is in. */
  base_currency: string;
  /** What one of it costs, in major units. */
  value: number | string;
  request_id?: string | number | null;
}

export interface SetPriceReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Price;
}

/** Follow a topic. */
export interface Subscribe {
  action: "subscribe";
  /** Of what kind the topic is. */
  type: "invoice" | "account" | "address" | "price";
  /** Which of that kind: an invoice's uid, an account's id, an address, a currency or `*`. */
  id: string | number;
  /** A position: all that came after it is told first. */
  after?: string | null;
  /** Whether the reply holds the topic's current state. */
  snapshot?: boolean | null;
  request_id?: string | number | null;
}

export interface SubscribeReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Subscribed;
}

/** The data of a reply to `subscribe`. */
export interface Subscribed {
  /** Where the follower stands; what it is told comes after it. */
  position: string;
  /** Whether nothing was lost between the position that it named and this one. */
  recovered: boolean;
  /** The topic's state as of `position`: an invoice, null where there is none, or a list. */
  snapshot?: Invoice | null | (Invoice | Price)[];
  /** The cursor of what the list lacks, where that is more than a page. */
  next?: string;
}

/** A token, without what is secret. */
export interface Token {
  /** Its number. */
  id: number;
  /** Whose it is; null: an operator's. */
  account_id: number | null;
  /** What it allows. */
  scopes: ("admin" | "process" | "read" | "write")[];
  createdAt: string;
  expiresAt?: string;
  revokedAt?: string;
  /** The secret; only in the reply to `create_token`. */
  token?: string;
}

/** Follow a topic no more. */
export interface Unsubscribe {
  action: "unsubscribe";
  /** Of what kind the topic is. */
  type: "invoice" | "account" | "address" | "price";
  /** Which of that kind. */
  id: string | number;
  request_id?: string | number | null;
}

/** Follow nothing any more. */
export interface UnsubscribeAll {
  action: "unsubscribe_all";
  request_id?: string | number | null;
}

export interface UnsubscribeAllReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
}

export interface UnsubscribeReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
}

/** Change an invoice's status, as payments come in. */
export interface UpdateInvoice {
  action: "update_invoice";
  /** Which. */
  uid: string;
  /** From unpaid to confirming, expired or cancelled; from confirming to paid, or back. */
  status: "cancelled" | "confirming" | "expired" | "paid" | "unpaid";
  request_id?: string | number | null;
}

export interface UpdateInvoiceReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Invoice;
}

/** One of the topics of a `resume`. */
export interface WantedTopic {
  /** Of what kind the topic is. */
  type: "invoice" | "account" | "address" | "price";
  id: string | number;
}

/** A webhook, without what is sent. */
export interface Webhook {
  /** What receivers know as `trio-ws-delivery`. */
  id: string;
  /** Whose it is. */
  account_id: number;
  /** The uid of its invoice. */
  invoice: string;
  /** Its event's. */
  type: string;
  /** Scheme, host and port of its URL. */
  endpoint: string;
  state: "waiting" | "failed" | "held" | "delivered";
  /** How many there were since it was queued or retried. */
  attempts: number;
  /** The HTTP status of the last response, if there was one. */
  status?: number;
  /** Why the last attempt failed. */
  error?: string;
  /** Whether it waits for an older webhook of its invoice. */
  is_behind?: boolean;
  queuedAt: string;
  nextAttemptAt?: string;
  endedAt?: string;
  /** Where it is sent; of one webhook only, not in lists. */
  url?: string;
  /** What is sent; of one webhook only, not in lists. */
  body?: LoggedEvent;
}

/** What an action takes, and what `call` returns of its reply. */
export interface Actions {
  subscribe: { request: Omit<Subscribe, "action" | "request_id">; data: Subscribed };
  resume: { request: Omit<Resume, "action" | "request_id">; data: Subscribed };
  unsubscribe: { request: Omit<Unsubscribe, "action" | "request_id">; data: UnsubscribeReply };
  unsubscribe_all: { request: Record<string, never>; data: UnsubscribeAllReply };
  create_invoice: { request: Omit<CreateInvoice, "action" | "request_id">; data: Invoice };
  fetch_invoice: { request: Omit<FetchInvoice, "action" | "request_id">; data: Invoice };
  cancel_invoice: { request: Omit<CancelInvoice, "action" | "request_id">; data: Invoice };
  update_invoice: { request: Omit<UpdateInvoice, "action" | "request_id">; data: Invoice };
  list_invoices: { request: Omit<ListInvoices, "action" | "request_id">; data: (Invoice)[] };
  record_payment: { request: Omit<RecordPayment, "action" | "request_id">; data: Payment };
  list_payments: { request: Omit<ListPayments, "action" | "request_id">; data: (Payment)[] };
  list_prices: { request: Omit<ListPrices, "action" | "request_id">; data: (Price)[] };
  set_price: { request: Omit<SetPrice, "action" | "request_id">; data: Price };
  convert_price: { request: Omit<ConvertPrice, "action" | "request_id">; data: Converted };
  list_events: { request: Omit<ListEvents, "action" | "request_id">; data: (LoggedEvent)[] };
  list_webhooks: { request: Omit<ListWebhooks, "action" | "request_id">; data: (Webhook)[] };
  fetch_webhook: { request: Omit<FetchWebhook, "action" | "request_id">; data: Webhook };
  retry_webhook: { request: Omit<RetryWebhook, "action" | "request_id">; data: Webhook };
  list_accounts: { request: Omit<ListAccounts, "action" | "request_id">; data: (Account)[] };
  create_account: { request: Omit<CreateAccount, "action" | "request_id">; data: Account };
  rename_account: { request: Omit<RenameAccount, "action" | "request_id">; data: Account };
  list_tokens: { request: Omit<ListTokens, "action" | "request_id">; data: (Token)[] };
  create_token: { request: Omit<CreateToken, "action" | "request_id">; data: Token };
  revoke_token: { request: Omit<RevokeToken, "action" | "request_id">; data: Token };
  list_connections: { request: Omit<ListConnections, "action" | "request_id">; data: (Connected)[] };
  end_connection: { request: Omit<EndConnection, "action" | "request_id">; data: EndConnectionReply };
  fetch_figures: { request: Record<string, never>; data: Figures };
  authenticate: { request: Omit<Authenticate, "action" | "request_id">; data: Authenticated };
  ping: { request: Record<string, never>; data: Pong };
}

export type Event = InvoiceCreated | InvoiceUpdated | PaymentCreated | PaymentUpdated | PriceUpdated;
export type TopicType = Subscribe["type"];
/** What `watch` yields. */
export type StateOf<T extends TopicType> = T extends "price" ? Price : Invoice;
/** An action's fields as the rest of an argument list: they may be left out where none is needed. */
export type Fields<A extends keyof Actions> =
  {} extends Actions[A]["request"] ? [fields?: Actions[A]["request"]] : [fields: Actions[A]["request"]];
