-- The limits of the protocol hold for any writer; the rules and the log hold also where rows are replicated; and one
-- invoice that can't expire keeps no other.

-- Limits ------------------------------------------------------------------------------------------------------

-- What is wrong with a row's new values; NULL: nothing. What is as it was is left alone, so that a row that is older
-- than its limit can still be paid or expire. For a new row the old one is NULL. The types in messages.py say the same.
CREATE FUNCTION @schema@.invoice_fault(n @schema@.invoices, o @schema@.invoices) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN length(n.memo) > 1000 AND n.memo IS DISTINCT FROM o.memo
    THEN 'memo: at most 1000 characters'
  WHEN NOT (length(n.address) <= 128 AND n.address ~ '^[^\u0001-\u0020\u007f]+$')
       AND n.address IS DISTINCT FROM o.address
    THEN 'address: 1 to 128 characters, none of them a space or control character'
  WHEN NOT (length(n.webhook_url) <= 2000
            AND n.webhook_url ~ '^https?://[^\u0001-\u0020\u007f/?#]+[^\u0001-\u0020\u007f]*$')
       AND n.webhook_url IS DISTINCT FROM o.webhook_url
    THEN 'webhook_url: an http or https URL of at most 2000 characters'
  WHEN NOT (length(n.redirect_url) <= 2000
            AND n.redirect_url ~ '^https?://[^\u0001-\u0020\u007f/?#]+[^\u0001-\u0020\u007f]*$')
       AND n.redirect_url IS DISTINCT FROM o.redirect_url
    THEN 'redirect_url: an http or https URL of at most 2000 characters'
  WHEN NOT (length(n.idempotency_key) <= 128 AND n.idempotency_key ~ '^[^\u0001-\u0020\u007f]+$')
       AND n.idempotency_key IS DISTINCT FROM o.idempotency_key
    THEN 'idempotency_key: 1 to 128 characters, none of them a space or control character'
  WHEN octet_length(n.request_hash) > 64 AND n.request_hash IS DISTINCT FROM o.request_hash
    THEN 'request_hash: at most 64 bytes'
  WHEN n.expires_at NOT BETWEEN '0001-01-01T00:00:00Z' AND '9999-12-31T23:59:59.999999Z'
       AND n.expires_at IS DISTINCT FROM o.expires_at
    THEN 'expires_at: within the years 1 to 9999'
  WHEN n.created_at NOT BETWEEN '0001-01-01T00:00:00Z' AND '9999-12-31T23:59:59.999999Z'
       AND n.created_at IS DISTINCT FROM o.created_at
    THEN 'created_at: within the years 1 to 9999'
  WHEN n.updated_at NOT BETWEEN '0001-01-01T00:00:00Z' AND '9999-12-31T23:59:59.999999Z'
       AND n.updated_at IS DISTINCT FROM o.updated_at
    THEN 'updated_at: within the years 1 to 9999'
END;

CREATE FUNCTION @schema@.price_fault(n @schema@.prices, o @schema@.prices) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  -- 36 digits, of which the first may stand at the 36th place after the point.
  WHEN scale(n.value) > 72 AND n.value IS DISTINCT FROM o.value
    THEN 'value: at most 72 decimals'
  WHEN n.currency::text = n.base_currency::text
       AND (n.currency::text, n.base_currency::text) IS DISTINCT FROM (o.currency::text, o.base_currency::text)
    THEN 'base_currency: another one than currency'
END;

CREATE FUNCTION @schema@.account_fault(n @schema@.accounts, o @schema@.accounts) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN NOT (length(n.name) <= 200 AND n.name ~ '^[^\u0001-\u001f\u007f]*$') AND n.name IS DISTINCT FROM o.name
    THEN 'name: at most 200 characters, none of them a control character'
END;

-- Without a fault it is not called, and is NULL.
CREATE FUNCTION @schema@.refuse(table_name text, fault text) RETURNS text
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE check_violation USING MESSAGE = fault, TABLE = table_name, COLUMN = split_part(fault, ':', 1);
END
$$;

-- Invoices and prices are looked at where they are logged: as they were stored, whatever another program's trigger
-- made of them before. A trigger's WHEN costs each statement 0.2 ms.
CREATE FUNCTION @schema@.limit_account() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  refused text := @schema@.refuse('accounts'::text, @schema@.account_fault(NEW, OLD));
BEGIN
  RETURN NULL;
END
$$;

CREATE TRIGGER limits AFTER INSERT OR UPDATE ON @schema@.accounts FOR EACH ROW
  EXECUTE FUNCTION @schema@.limit_account();

-- See 0012. New: the limits.
CREATE OR REPLACE FUNCTION @schema@.log_new_invoices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO @schema@.event (type, topics, data, subject, webhook_id)
    -- A row of new_invoices is a record, and becomes an invoice only where it is said to.
    SELECT coalesce(@schema@.refuse('invoices'::text, @schema@.invoice_fault(
             i::@schema@.invoices, NULL::@schema@.invoices)), 'invoice.created'),
           @schema@.invoice_topics(i::@schema@.invoices),
           @schema@.invoice_json(i::@schema@.invoices), i.id,
           CASE WHEN i.webhook_url IS NOT NULL THEN gen_random_uuid() END
    FROM new_invoices i ORDER BY i.id;
  IF FOUND AND current_setting('trio_ws.wakes_itself', true) IS DISTINCT FROM 'yes' THEN
    PERFORM pg_notify('trio_ws', '');  -- see log_event() in 0001
  END IF;
  RETURN NULL;
END
$$;

-- See 0012. New: the limits; and new invoices that come by replication, which fires no trigger FOR EACH STATEMENT.
CREATE OR REPLACE FUNCTION @schema@.log_invoice() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  refused text := @schema@.refuse('invoices'::text, @schema@.invoice_fault(NEW, OLD));
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF current_setting('session_replication_role') = 'replica' THEN  -- else log_new_invoices() does it
      PERFORM @schema@.log_event('invoice.created'::text, @schema@.invoice_topics(NEW), @schema@.invoice_json(NEW),
                                 NULL::json, NEW.id, NEW.webhook_url IS NOT NULL);
    END IF;
  ELSIF NEW.version > OLD.version THEN
    PERFORM @schema@.log_event(
      'invoice.updated'::text,
      @schema@.either(@schema@.invoice_topics(NEW), @schema@.invoice_topics(OLD)),
      @schema@.invoice_json(NEW),
      @schema@.changed_fields(@schema@.invoice_json(OLD), @schema@.invoice_json(NEW)),
      NEW.id,
      NEW.webhook_url IS NOT NULL);
  END IF;
  RETURN NULL;
END
$$;

-- See 0012. New: the limits.
CREATE OR REPLACE FUNCTION @schema@.log_price() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  refused text := @schema@.refuse('prices'::text, @schema@.price_fault(NEW, OLD));
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM @schema@.log_event('price.updated'::text, @schema@.price_topics(NEW), @schema@.price_json(NEW),
                               NULL::json, -NEW.id, false);
  ELSIF NEW.version > OLD.version THEN
    PERFORM @schema@.log_event(
      'price.updated'::text,
      @schema@.either(@schema@.price_topics(NEW), @schema@.price_topics(OLD)),
      @schema@.price_json(NEW),
      @schema@.changed_fields(@schema@.price_json(OLD), @schema@.price_json(NEW)),
      -NEW.id,
      false);
  END IF;
  RETURN NULL;
END
$$;


-- Replication --------------------------------------------------------------------------------------------------

-- Logical replication, and whoever sets session_replication_role to `replica`, passes by each trigger that is not
-- ALWAYS. A row that comes so with a version of its own is a copy: another server's triggers have made it what it is,
-- and it stays so. Its event is made here, unless a subscription brings the events, too.

CREATE FUNCTION @schema@.is_subscribed(table_name name) RETURNS bool LANGUAGE sql STABLE
RETURN EXISTS (
  SELECT FROM pg_subscription_rel s JOIN pg_class c ON c.oid = s.srrelid
  WHERE c.relname = table_name AND c.relnamespace = to_regnamespace($schema$@schema@$schema$));

CREATE OR REPLACE FUNCTION @schema@.log_event(
  type text, topics text[], data json, previous json, subject bigint, has_webhook bool) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('session_replication_role') = 'replica' AND @schema@.is_subscribed('event'::name) THEN
    RETURN;
  END IF;
  INSERT INTO @schema@.event (type, topics, data, previous, subject, webhook_id)
    VALUES (type, topics, data, previous, subject, CASE WHEN has_webhook THEN gen_random_uuid() END);
  IF current_setting('trio_ws.wakes_itself', true) IS DISTINCT FROM 'yes' THEN
    PERFORM pg_notify('trio_ws', '');
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.add_webhook_secret() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT (current_setting('session_replication_role') = 'replica'
          AND @schema@.is_subscribed('webhook_secrets'::name)) THEN
    INSERT INTO @schema@.webhook_secrets (account_id) VALUES (NEW.id);
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.next_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.version > OLD.version AND current_setting('session_replication_role') = 'replica' THEN
    RETURN NEW;
  END IF;
  NEW.version := OLD.version;
  NEW.updated_at := OLD.updated_at;
  IF NEW IS DISTINCT FROM OLD THEN
    NEW.version := OLD.version + 1;
    NEW.updated_at := clock_timestamp();
  END IF;
  RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.guard_invoice() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  refused text;
BEGIN
  IF (TG_OP = 'INSERT' OR NEW.version > OLD.version)
     AND current_setting('session_replication_role') = 'replica' THEN
    RETURN NEW;
  END IF;
  IF length(NEW.address) > 128 OR length(NEW.idempotency_key) > 128 THEN
    -- These have indexes, whose rows have a limit that would be met before log_invoice().
    refused := @schema@.refuse('invoices'::text, @schema@.invoice_fault(NEW, OLD));
  END IF;
  IF TG_OP = 'INSERT' THEN
    NEW.version := 1;
    RETURN NEW;
  END IF;
  IF NEW.status <> OLD.status AND NOT @schema@.status_may_become(OLD.status, NEW.status) THEN
    RAISE check_violation USING
      MESSAGE = format('invoice %s is %s and cannot become %s', OLD.id, OLD.status, NEW.status),
      HINT = 'unpaid -> confirming -> paid; confirming -> unpaid; unpaid -> expired or cancelled';
  END IF;
  IF (NEW.id, NEW.uid, NEW.account_id, NEW.amount, NEW.currency, NEW.created_at, NEW.idempotency_key, NEW.request_hash)
     IS DISTINCT FROM
     (OLD.id, OLD.uid, OLD.account_id, OLD.amount, OLD.currency, OLD.created_at, OLD.idempotency_key, OLD.request_hash)
  THEN
    RAISE check_violation USING
      MESSAGE = format('only the status, memo, address, URLs and time to pay of invoice %s can change', OLD.id),
      HINT = 'cancel it, and make another one';
  END IF;
  RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER guard_new BEFORE INSERT ON @schema@.invoices FOR EACH ROW
  WHEN (NEW.version IS DISTINCT FROM 1 OR length(NEW.address) > 128 OR length(NEW.idempotency_key) > 128)
  EXECUTE FUNCTION @schema@.guard_invoice();

CREATE OR REPLACE FUNCTION @schema@.guard_price() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (TG_OP = 'INSERT' OR NEW.version > OLD.version)
     AND current_setting('session_replication_role') = 'replica' THEN
    RETURN NEW;
  END IF;
  IF TG_OP = 'INSERT' THEN
    NEW.version := 1;
    NEW.created_at := clock_timestamp();
    NEW.updated_at := NEW.created_at;
    NEW.set_at := NEW.created_at;
  ELSIF NEW.id <> OLD.id OR NEW.created_at <> OLD.created_at THEN
    RAISE check_violation USING MESSAGE = format('the id and time of creation of price %s cannot change', OLD.id);
  ELSIF NEW.set_at <> OLD.set_at THEN
    NEW.set_at := clock_timestamp();
  END IF;
  RETURN NEW;
END
$$;

-- It fires in replication alone. Should somebody enable it everywhere, as by ENABLE TRIGGER ALL, it logs nothing twice.
CREATE TRIGGER log_copy AFTER INSERT ON @schema@.invoices FOR EACH ROW EXECUTE FUNCTION @schema@.log_invoice();
ALTER TABLE @schema@.invoices ENABLE REPLICA TRIGGER log_copy;

DO $do$
DECLARE
  found record;
BEGIN
  FOR found IN
    SELECT t.tgrelid::regclass AS name, t.tgname FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND t.tgname NOT IN ('log_new', 'log_copy')
    AND f.pronamespace = to_regnamespace($schema$@schema@$schema$)
  LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', found.name, found.tgname);
  END LOOP;
END
$do$;


-- Expiry -------------------------------------------------------------------------------------------------------

-- Overdue invoices whose update failed, as by another program's trigger: when to try again. A foreign key would
-- wait for who holds the invoice.
CREATE TABLE @schema@.expiry_failures (
  invoice_id bigint PRIMARY KEY,
  attempts   int NOT NULL DEFAULT 1,
  retry_at   timestamptz NOT NULL,
  error      text NOT NULL
);
