-- New invoices for half of what they cost: 17 a row, from 31. All in µs of PostgreSQL, in batches of 128.

-- What calls a function that depends on settings depends on them, too: STABLE. Called IMMUTABLE, these could not be
-- inlined, and each call cost 1 to 2.
CREATE OR REPLACE FUNCTION wire_time(t timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
$$;

CREATE OR REPLACE FUNCTION invoice_topics(i invoices) RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT array_remove(ARRAY['invoice:' || i.uid, 'account:' || i.account_id, 'address:' || i.address], NULL)
$$;

CREATE OR REPLACE FUNCTION price_topics(p prices) RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT ARRAY['price:' || p.currency, 'price:*', 'account:' || p.account_id]
$$;

-- As before, but made of text: 1 where json_build_object and json_strip_nulls took 3.4, and each invoice has it made
-- twice, for its event and for the reply. What is NULL leaves nothing behind; uid, currency and status hold nothing
-- that JSON would escape.
CREATE OR REPLACE FUNCTION invoice_json(i invoices) RETURNS json LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT concat(
    '{"id":', i.id, ',"uid":"', i.uid, '","amount":', i.amount, ',"currency":"', i.currency,
    '","status":"', i.status, '","account_id":', i.account_id,
    ',"createdAt":"', wire_time(i.created_at), '","updatedAt":"', wire_time(i.updated_at), '"',
    ',"memo":' || to_json(i.memo), ',"webhook_url":' || to_json(i.webhook_url),
    ',"redirect_url":' || to_json(i.redirect_url), ',"address":' || to_json(i.address),
    ',"expiresAt":"' || wire_time(i.expires_at) || '"', ',"version":', i.version, '}')::json
$$;

-- One statement for all the rows that one statement inserts: a row costs 17 in all, and 25 with a trigger for each.
CREATE FUNCTION log_new_invoices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO event (type, topics, data)
    SELECT 'invoice.created', invoice_topics(i), invoice_json(i) FROM new_invoices i ORDER BY i.id;
  IF FOUND AND current_setting('trio_ws.wakes_itself', true) IS DISTINCT FROM 'yes' THEN
    PERFORM pg_notify('trio_ws', '');  -- see log_event() in 0001
  END IF;
  RETURN NULL;
END
$$;

REVOKE EXECUTE ON FUNCTION log_new_invoices() FROM PUBLIC;

CREATE OR REPLACE FUNCTION log_invoice() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  IF NEW.version > OLD.version THEN
    PERFORM log_event('invoice.updated', either(invoice_topics(NEW), invoice_topics(OLD)), invoice_json(NEW),
                      changed_fields(invoice_json(OLD), invoice_json(NEW)));
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER log_event AFTER UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION log_invoice();
CREATE TRIGGER log_new AFTER INSERT ON invoices REFERENCING NEW TABLE AS new_invoices
  FOR EACH STATEMENT EXECUTE FUNCTION log_new_invoices();

-- Nearly nobody gives a version.
CREATE OR REPLACE TRIGGER guard BEFORE UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION guard_invoice();
CREATE TRIGGER guard_new BEFORE INSERT ON invoices FOR EACH ROW WHEN (NEW.version IS DISTINCT FROM 1)
  EXECUTE FUNCTION guard_invoice();
