-- What people look for: the events of an invoice, the webhooks of an invoice, an account or all, an account's tokens.

-- Of a row without a number nobody reads yet: so each event is entered once, when it is numbered.
CREATE INDEX event_subject ON @schema@.event (subject, seq) WHERE seq IS NOT NULL;

CREATE INDEX webhook_deliveries_seq ON @schema@.webhook_deliveries (seq);
CREATE INDEX webhook_deliveries_account ON @schema@.webhook_deliveries (account_id, seq);
CREATE INDEX webhook_deliveries_invoice_failed ON @schema@.webhook_deliveries (invoice, seq) WHERE failed_at IS NOT NULL;
CREATE INDEX webhook_deliveries_account_failed ON @schema@.webhook_deliveries (account_id, failed_at, seq)
  WHERE failed_at IS NOT NULL;
CREATE INDEX webhook_history_invoice ON @schema@.webhook_history (invoice);

CREATE INDEX tokens_account ON @schema@.tokens (account_id, id);
