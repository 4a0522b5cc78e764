// Made by scripts/types from the structs that the server decodes and encodes: change those.

/** An account. */
export interface Account {
  /** Its number. */
  id: number;
  /** Its name. */
  name: string;
  createdAt: string;
}

/** Authenticate the connection with a token. */
export interface Authenticate {
  action: "authenticate";
  /** As it was shown when it was created. */
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
  /** The token's account. null: an operator's token, for all accounts. */
  account_id: number | null;
  scopes: (string)[];
  expiresAt: string | null;
}

/** Cancel an unpaid invoice. */
export interface CancelInvoice {
  action: "cancel_invoice";
  /** The invoice. */
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
  /** Its id, valid as long as it is open. */
  id: string;
  kind: "websocket" | "event_stream";
  /** The client's IP address, or its IPv6 network, if known. */
  address: string | null;
  /** The account of its token. null: no token, or an operator's. */
  account_id: number | null;
  /** The id of its token, if it has one. */
  token_id: number | null;
  /** What it may do. */
  scopes: (string)[];
  openedAt: string;
  /** The first 20 topics that it follows, as `type:id`. */
  topics: (string)[];
  /** The number of topics that it follows. */
  topic_count: number;
  /** Bytes that the client has not read yet. */
  waiting_bytes: number;
  /** Whether it is behind, and reads older events from the log. */
  is_catching_up: boolean;
  /** The number of requests that it has sent. */
  requests: number;
  /** The number of messages sent to it. */
  messages: number;
}

/** Convert an amount from one currency to another. */
export interface ConvertPrice {
  action: "convert_price";
  /** The currency to convert from. */
  quote_currency: string;
  /** The currency to convert to. */
  base_currency: string;
  /** The amount, in major units. */
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
  /** Rounded to the smallest unit of `base_currency`, or to 18 decimals if that is unknown. */
  base_value: number;
  /** When the price was set. If two prices were used, the older time. */
  timestamp: string;
}

/** Create an account. */
export interface CreateAccount {
  action: "create_account";
  /** Its name. */
  name: string;
  request_id?: string | number | null;
}

export interface CreateAccountReply {
  status: "success";
  message?: string;
  request_id?: RequestId;
  data: Account;
}

/** Create an invoice. */
export interface CreateInvoice {
  action: "create_invoice";
  /** The amount to pay, in the smallest unit of `currency`. */
  amount: number;
  /** A code of ISO 4217, or a ticker. */
  currency: string;
  /** The account. Optional with a token of an account. */
  account_id?: number | null;
  /** A note for the merchant. */
  memo?: string | null;
  /** The payment address. It can be followed as a topic. */
  address?: string | null;
  /** The URL that its events are sent to. */
  webhook_url?: string | null;
  /** The URL that a checkout page leads to after the payment. */
  redirect_url?: string | null;
  /** The invoice expires after this time if it is still unpaid. */
  expires_in_seconds?: number | null;
  /** Makes the request safe to repeat: the same request with the same key returns the same invoice. */
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
  /** The account. Leave out with `admin`. */
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

/** The reply to an action that failed. */
export interface Failure {
  status: "error";
  message: string;
  /** conflict: The object's state does not allow the change.; forbidden: The token does not allow it.; idempotency_mismatch: The idempotency key was used for another request.; internal: A bug; the log has it.; invalid_message: The message is no known action, or lacks a required field.; invalid_topic: The topic's type or id is invalid.; invalid_value: A field has an invalid value.; not_found: The object does not exist.; rate_limited: The client has reached its rate limit.; timeout: PostgreSQL took too long. Nothing has changed.; too_many_subscriptions: The connection has reached its limit of subscriptions.; unauthorized: The token is missing, unknown, expired or revoked.; unavailable: PostgreSQL could not be reached. It may be unknown whether a write was done. */
  code: "conflict" | "forbidden" | "idempotency_mismatch" | "internal" | "invalid_message" | "invalid_topic" | "invalid_value" | "not_found" | "rate_limited" | "timeout" | "too_many_subscriptions" | "unauthorized" | "unavailable";
  detail?: string;
  retry_after_seconds?: number;
  request_id?: string | number;
}

/** Read the metrics of all processes of this server, summed. */
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
  /** The invoice's `uid`. */
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

/** The metrics of this server's processes. */
export interface Figures {
  /** The version of trio_ws. */
  version: string;
  /** The process ids. Counters begin at 0 in each process. */
  processes: (number)[];
  /** The number of processes that did not answer. */
  missing: number;
  /** The metrics by name, summed over labels and processes; for some, the largest. */
  values: Record<string, number>;
}

/** An invoice, the protocol's INVOICE. */
export interface Invoice {
  /** A sequential number. */
  id: number;
  /** A random UUID; it cannot be guessed. */
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
  /** The sum of its settled payments, if not 0. */
  amount_paid?: number;
  /** The sum of its pending payments, if not 0. */
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
  /** Maximum number of connections. Default: 50. A page also ends after 128 KiB. */
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
  /** The invoice. */
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
  /** The invoice. */
  uid: string;
  /** The `next` of the page before. */
  cursor?: string | null;
  /** Maximum number of payments. Default: 50. A page also ends after 128 KiB. */
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

/** Read prices page by page: the account's own, and the latest of each other pair of currencies. */
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

/** Read tokens by id, page by page, without the secrets. An account's token sees the account's. */
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

/** A payment for an invoice, the protocol's PAYMENT. */
export interface Payment {
  id: number;
  /** The invoice's uid. */
  invoice: string;
  /** Identifies the payment; unique for each invoice. */
  reference: string;
  /** In the smallest unit of `currency`. Negative for a refund. */
  amount: number;
  /** The invoice's currency. */
  currency: string;
  status: "pending" | "settled" | "failed";
  /** The invoice's account. */
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

/** Check that the server answers. */
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

/** The price of one unit of `currency`, the protocol's PRICE. */
export interface Price {
  id: number;
  currency: string;
  /** The price in the smallest unit of `base_currency`. */
  amount: number;
  /** The account that set the price. */
  account_id: number;
  createdAt: string;
  updatedAt: string;
  base_currency: string;
  /** The price in major units of `base_currency`. */
  value: number;
}

export interface PriceUpdated {
  type: "price.updated";
  data: Price;
  /** The changed fields' old values; a new row has none. */
  previous?: Partial<Price>;
  position: Position;
}

/** Record a payment, or change the status of a recorded one. */
export interface RecordPayment {
  action: "record_payment";
  /** The invoice. */
  uid: string;
  /** Identifies the payment, such as a transaction id. A known reference changes its payment. */
  reference: string;
  /** In the smallest unit of the invoice's currency. Negative for a refund. */
  amount: number;
  /** From pending to settled or failed; from settled to failed. */
  status: "failed" | "pending" | "settled";
  /** If given, it must be the invoice's currency. */
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
  /** The account. */
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

/** Follow many topics from one position. Their events are delivered in one order. */
export interface Resume {
  action: "resume";
  /** A position. Events after it are delivered first. */
  after: string;
  /** The topics, as `{"type": …, "id": …}` each. */
  topics: (WantedTopic)[];
  /** Whether the next `resume` names more topics. The last one follows all of them. */
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

/** Set the price of a currency. */
export interface SetPrice {
  action: "set_price";
  /** The currency that has the price. */
  currency: string;
  /** The currency of the price. */
  base_currency: string;
  /** The price of one unit, in major units of `base_currency`. */
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
  /** The topic's id: an invoice's uid, an account's id, an address, a currency, or `*` for all prices. */
  id: string | number;
  /** A position. Events after it are delivered first. */
  after?: string | null;
  /** Whether the reply contains the topic's current state. */
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
  /** Events after this position will be delivered. */
  position: string;
  /** Whether no event was lost between the requested position and this one. */
  recovered: boolean;
  /** The topic's state as of `position`: an invoice, null where there is none, or a list. */
  snapshot?: Invoice | null | (Invoice | Price)[];
  /** The cursor of the list's next page, if there is one. */
  next?: string;
}

/** A token. */
export interface Token {
  /** Its number. */
  id: number;
  /** Its account. null: an operator's token. */
  account_id: number | null;
  /** What it allows. */
  scopes: ("admin" | "process" | "read" | "write")[];
  createdAt: string;
  expiresAt?: string;
  revokedAt?: string;
  /** The secret; only in the reply to `create_token`. */
  token?: string;
}

/** Stop following a topic. */
export interface Unsubscribe {
  action: "unsubscribe";
  /** Of what kind the topic is. */
  type: "invoice" | "account" | "address" | "price";
  /** The topic's id. */
  id: string | number;
  request_id?: string | number | null;
}

/** Stop following all topics. */
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

/** Change an invoice's status. */
export interface UpdateInvoice {
  action: "update_invoice";
  /** The invoice. */
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

/** A webhook. */
export interface Webhook {
  /** Receivers know it as `trio-ws-delivery`. */
  id: string;
  /** Its account. */
  account_id: number;
  /** The uid of its invoice. */
  invoice: string;
  /** The type of its event. */
  type: string;
  /** Scheme, host and port of its URL. */
  endpoint: string;
  state: "waiting" | "failed" | "held" | "delivered";
  /** The number of attempts since it was queued or retried. */
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
  /** Its URL; not in lists. */
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
