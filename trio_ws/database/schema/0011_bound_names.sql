-- Functions that call what they mean, whoever else may create functions in this schema.
--
-- PostgreSQL finds a function or operator by the best match among all schemas on the search path. Where others may
-- create in our schema (PostgreSQL 14 lets everybody in `public`), one of theirs could match better than PostgreSQL's
-- own, and our triggers ran it with the rights of their owner. From here on nothing of ours is found by chance:
--
-- * A function in SQL has a body that PostgreSQL binds when it is created, and can still inline.
-- * A function in plpgsql has a search path of its own, on which our schema is not.
-- * What is ours is named with our schema, and its arguments have exactly the types that it takes.


-- Their form on the wire, and whom they concern ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION @schema@.currency_exponent(currency text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI',
                    'VND', 'VUV', 'XAF', 'XOF', 'XPF') THEN 0
  WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 3
  WHEN currency IN ('CLF', 'UYW') THEN 4
  WHEN currency IN ('USDC', 'USDT', 'TRX') THEN 6
  WHEN currency IN ('BCH', 'BTC', 'DOGE', 'LTC') THEN 8
  WHEN currency = 'XMR' THEN 12
  WHEN currency IN ('BNB', 'DAI', 'ETH') THEN 18
  ELSE 2
END;

CREATE OR REPLACE FUNCTION @schema@.wire_time(t timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');

CREATE OR REPLACE FUNCTION @schema@.invoice_json(i @schema@.invoices) RETURNS json
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat(
  '{"id":', i.id, ',"uid":"', i.uid, '","amount":', i.amount, ',"currency":"', i.currency,
  '","status":"', i.status, '","account_id":', i.account_id,
  ',"createdAt":"', @schema@.wire_time(i.created_at), '","updatedAt":"', @schema@.wire_time(i.updated_at), '"',
  ',"memo":' || to_json(i.memo), ',"webhook_url":' || to_json(i.webhook_url),
  ',"redirect_url":' || to_json(i.redirect_url), ',"address":' || to_json(i.address),
  ',"expiresAt":"' || @schema@.wire_time(i.expires_at) || '"', ',"version":', i.version, '}')::json;

CREATE OR REPLACE FUNCTION @schema@.price_json(p @schema@.prices) RETURNS json
LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_strip_nulls(json_build_object(
  'id', p.id, 'currency', p.currency, 'amount', p.amount, 'account_id', p.account_id,
  'createdAt', @schema@.wire_time(p.created_at), 'updatedAt', @schema@.wire_time(p.updated_at),
  'base_currency', p.base_currency, 'value', p.value));

CREATE OR REPLACE FUNCTION @schema@.invoice_topics(i @schema@.invoices) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN array_remove(ARRAY['invoice:' || i.uid, 'account:' || i.account_id, 'address:' || i.address], NULL);

CREATE OR REPLACE FUNCTION @schema@.price_topics(p @schema@.prices) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN ARRAY['price:' || p.currency, 'price:*', 'account:' || p.account_id];

CREATE OR REPLACE FUNCTION @schema@.either(new_topics text[], old_topics text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN old_topics <@ new_topics THEN new_topics
            ELSE new_topics || ARRAY(SELECT unnest(old_topics) EXCEPT SELECT unnest(new_topics)) END;

CREATE OR REPLACE FUNCTION @schema@.changed_fields(old_row json, new_row json) RETURNS json
LANGUAGE sql IMMUTABLE
RETURN (
  SELECT ('{' || coalesce(string_agg(to_json(name) || ':' || coalesce(was, 'null'), ',' ORDER BY place), '')
          || '}')::json
  FROM (SELECT name, min(place) AS place, (old_row -> name)::text AS was, (new_row -> name)::text AS is_now
        FROM (SELECT * FROM json_object_keys(old_row) WITH ORDINALITY AS o (name, place)
              UNION ALL
              SELECT * FROM json_object_keys(new_row) WITH ORDINALITY AS n (name, place)) fields
        GROUP BY name) field
  WHERE name NOT IN ('version', 'updatedAt') AND was IS DISTINCT FROM is_now);

CREATE OR REPLACE FUNCTION @schema@.status_may_become(old_status text, new_status text) RETURNS bool
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (old_status, new_status) IN (
  ('unpaid', 'confirming'), ('confirming', 'paid'), ('confirming', 'unpaid'),
  ('unpaid', 'expired'), ('unpaid', 'cancelled'));

CREATE OR REPLACE FUNCTION @schema@.url_endpoint(url text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(coalesce(
  lower(substring(url, '^(\w+://)') || substring(url, '^\w+://(?:[^/?#]*@)?([^/?#]*)')), ''), 270);


-- The event log -----------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION @schema@.event_epoch() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT left(md5(concat_ws(' ', epoch, system_identifier, l.tableoid, d.oid)), 8) || '-'
        || ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    FROM @schema@.event_log l, pg_control_system(), pg_database d
    WHERE datname = current_database());
END
$$;

-- These have the search path that the migrations before had, whoever calls them.
ALTER FUNCTION @schema@.number_events(int) SET search_path = @schema@, pg_temp;
ALTER FUNCTION @schema@.trim_events(interval, int) SET search_path = @schema@, pg_temp;
ALTER FUNCTION @schema@.claim_webhooks(int, int, interval) SET search_path = @schema@, pg_temp;

CREATE OR REPLACE FUNCTION @schema@.log_event(type text, topics text[], data json, previous json) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO @schema@.event (type, topics, data, previous) VALUES (type, topics, data, previous);
  IF current_setting('trio_ws.wakes_itself', true) IS DISTINCT FROM 'yes' THEN
    PERFORM pg_notify('trio_ws', '');
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_new_invoices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO @schema@.event (type, topics, data)
    -- A row of new_invoices is a record, and becomes an invoice only where it is said to.
    SELECT 'invoice.created', @schema@.invoice_topics(i::@schema@.invoices),
           @schema@.invoice_json(i::@schema@.invoices)
    FROM new_invoices i ORDER BY i.id;
  IF FOUND AND current_setting('trio_ws.wakes_itself', true) IS DISTINCT FROM 'yes' THEN
    PERFORM pg_notify('trio_ws', '');  -- see log_event() in 0001
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_invoice() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.version > OLD.version THEN
    PERFORM @schema@.log_event(
      'invoice.updated'::text,
      @schema@.either(@schema@.invoice_topics(NEW), @schema@.invoice_topics(OLD)),
      @schema@.invoice_json(NEW),
      @schema@.changed_fields(@schema@.invoice_json(OLD), @schema@.invoice_json(NEW)));
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_price() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM @schema@.log_event(
      'price.updated'::text, @schema@.price_topics(NEW), @schema@.price_json(NEW), NULL::json);
  ELSIF NEW.version > OLD.version THEN
    PERFORM @schema@.log_event(
      'price.updated'::text,
      @schema@.either(@schema@.price_topics(NEW), @schema@.price_topics(OLD)),
      @schema@.price_json(NEW),
      @schema@.changed_fields(@schema@.price_json(OLD), @schema@.price_json(NEW)));
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_price_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM @schema@.log_event(
    'price.deleted'::text, ARRAY['prices'::text],
    json_build_object('id', CASE WHEN TG_OP = 'DELETE' THEN OLD.id END), NULL::json);
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_token() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM @schema@.log_event(
    'token.changed'::text, ARRAY['token:' || OLD.id], json_build_object('id', OLD.id), NULL::json);
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.add_webhook_secret() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO @schema@.webhook_secrets (account_id) VALUES (NEW.id);
  RETURN NULL;
END
$$;


-- Rules that hold for any writer, and run as the writer ---------------------------------------------------------

CREATE OR REPLACE FUNCTION @schema@.next_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.version := OLD.version;
  NEW.updated_at := OLD.updated_at;
  IF NEW IS DISTINCT FROM OLD THEN
    NEW.version := OLD.version + 1;
    NEW.updated_at := clock_timestamp();
  END IF;
  RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.complete_price() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  digits int := @schema@.currency_exponent(NEW.base_currency::text);
  unit numeric := 10::numeric ^ digits;
BEGIN
  IF NEW.value IS NULL OR (TG_OP = 'UPDATE' AND NEW.value = OLD.value AND NEW.amount <> OLD.amount) THEN
    NEW.value := round(NEW.amount / unit, digits);
  ELSE
    NEW.amount := round(NEW.value * unit);
  END IF;
  RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.guard_invoice() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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

CREATE OR REPLACE FUNCTION @schema@.guard_price() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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

CREATE OR REPLACE FUNCTION @schema@.keep_rows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE check_violation USING
    MESSAGE = format('rows of %I are not removed', TG_TABLE_NAME), HINT = TG_ARGV[0];
END
$$;
