-- What was delivered is remembered for a while, in a table of its own: so a claim reads nothing of it. What an answer
-- asks for is done: 410 ends a delivery, and Retry-After is the least pause, of all that the account has there.

ALTER TABLE @schema@.webhook_deliveries ADD COLUMN status int;  -- of the last attempt's answer; NULL: there was none
ALTER TABLE @schema@.webhook_endpoints ADD COLUMN wait_until timestamptz;  -- no attempt before, of one that fails

-- No foreign key and no check: what was delivered must be noted in any case.
CREATE TABLE @schema@.webhook_history (
  id           text PRIMARY KEY,
  seq          bigint NOT NULL,
  event_name   text NOT NULL,
  origin       text NOT NULL,
  invoice      text NOT NULL,
  account_id   bigint NOT NULL,
  endpoint     text NOT NULL,
  url          text NOT NULL,
  type         text NOT NULL,
  data         json NOT NULL,
  previous     json,
  since        timestamptz NOT NULL,
  attempts     int NOT NULL,
  status       int,
  delivered_at timestamptz NOT NULL
);
CREATE INDEX webhook_history_delivered ON @schema@.webhook_history (delivered_at);
CREATE INDEX webhook_history_account ON @schema@.webhook_history (account_id, delivered_at);

-- See 0015. New: wait_until.
CREATE OR REPLACE FUNCTION @schema@.schedule_endpoint(account bigint, name text, each int, served bool) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  moment constant timestamptz := clock_timestamp();
  e @schema@.webhook_endpoints;
  next_at timestamptz;
BEGIN
  SELECT * INTO e FROM @schema@.webhook_endpoints WHERE account_id = account AND endpoint = name;
  e.is_failing := coalesce(e.is_failing, false);
  SELECT min(leased_until) INTO next_at FROM @schema@.webhook_deliveries
    WHERE account_id = account AND endpoint = name AND leased_until > moment
    HAVING count(*) >= CASE WHEN e.is_failing THEN 1 ELSE each END;
  IF next_at IS NULL THEN
    SELECT due_at INTO next_at FROM @schema@.webhook_deliveries
      WHERE account_id = account AND endpoint = name AND due_at > '-infinity' ORDER BY due_at LIMIT 1;
  END IF;
  IF greatest(e.paused_until, e.wait_until) > next_at THEN
    next_at := greatest(e.paused_until, e.wait_until);
  END IF;
  IF next_at <= moment THEN
    next_at := CASE WHEN served THEN moment ELSE least(e.due_at, moment) END;
  END IF;
  IF next_at IS NULL AND NOT e.is_failing THEN
    DELETE FROM @schema@.webhook_endpoints WHERE account_id = account AND endpoint = name;
  ELSIF next_at IS DISTINCT FROM e.due_at THEN
    INSERT INTO @schema@.webhook_endpoints (account_id, endpoint, due_at) VALUES (account, name, next_at)
      ON CONFLICT (account_id, endpoint) DO UPDATE SET due_at = EXCLUDED.due_at;
  END IF;
  PERFORM @schema@.schedule_account(account, e.is_failing, served);
END
$$;

-- See 0015. New: 'gone' of what is not to be sent again; the answers' statuses; how many seconds each asks us to wait;
-- and whether what was delivered is remembered.
DROP FUNCTION @schema@.settle_webhooks(
  text[], int[], text[], text[], float8[], interval, interval, interval, int);
CREATE FUNCTION @schema@.settle_webhooks(
  ids text[], tries int[], results text[], errors text[], chances float8[], statuses int[], waits float8[],
  first_pause interval, longest_pause interval, keep interval, each int, has_history bool)
RETURNS TABLE (id text, account_id bigint, endpoint text, change text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
  enough constant int := 4;            -- failures until it is dead: as many as may be under way at a time
  moment timestamptz;
  r record;
  d @schema@.webhook_deliveries;
  e @schema@.webhook_endpoints;
  asked timestamptz;                   -- the receiver's Retry-After
  uid text;
  droppable int := 500;                -- some 100 ms, however many outcomes there are
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  FOR r IN
    SELECT * FROM unnest(ids, tries, results, errors, chances, statuses, waits)
      u (which, try, result, error, chance, status, wait)
  LOOP
    moment := clock_timestamp();
    SELECT * INTO d FROM @schema@.webhook_deliveries WHERE id = r.which;
    CONTINUE WHEN NOT FOUND;
    -- Another attempt has begun since, or the caller says it for the second time. What was delivered, was. (Who outlives
    -- its lease and a retry by hand may take that one's first attempt for its own: then it is sent once more.)
    CONTINUE WHEN r.result <> 'delivered' AND (d.attempts <> r.try OR d.leased_until IS NULL);
    SELECT * INTO e FROM @schema@.webhook_endpoints WHERE account_id = d.account_id AND endpoint = d.endpoint;

    IF r.result IN ('delivered', 'gone') THEN  -- either way the endpoint is well: it has answered, and means it
      IF r.result = 'gone' THEN
        UPDATE @schema@.webhook_deliveries
          SET failed_at = moment, due_at = NULL, leased_until = NULL, error = r.error, status = r.status
          WHERE id = r.which;
        RETURN QUERY SELECT d.id, d.account_id, d.endpoint, 'failed';
      ELSE
        IF has_history THEN
          INSERT INTO @schema@.webhook_history
              (id, seq, event_name, origin, invoice, account_id, endpoint, url, type, data, previous, since,
               attempts, status, delivered_at)
            VALUES (d.id, d.seq, d.event_name, d.origin, d.invoice, d.account_id, d.endpoint, d.url, d.type, d.data,
                    d.previous, d.since, d.attempts, r.status, moment)
            ON CONFLICT DO NOTHING;
        END IF;
        DELETE FROM @schema@.webhook_deliveries WHERE id = r.which;
      END IF;
      IF e.is_failing THEN
        UPDATE @schema@.webhook_endpoints
          SET failures = 0, failing_since = NULL, paused_until = NULL, wait_until = NULL, error = NULL, due_at = NULL
          WHERE account_id = d.account_id AND endpoint = d.endpoint;
      END IF;
      IF e.paused_until IS NOT NULL THEN
        RETURN QUERY SELECT d.id, d.account_id, d.endpoint, 'alive';
      END IF;

    ELSIF r.result = 'released' THEN
      UPDATE @schema@.webhook_deliveries SET leased_until = NULL, due_at = moment WHERE id = r.which;

    ELSE
      asked := CASE WHEN r.wait > 0 THEN moment + make_interval(secs => r.wait) END;
      d.failed_at := CASE WHEN moment >= d.since + keep THEN moment END;
      UPDATE @schema@.webhook_deliveries
        SET leased_until = NULL, error = r.error, status = r.status, failed_at = d.failed_at,
            due_at = CASE WHEN d.failed_at IS NULL THEN greatest(asked, least(
              d.since + keep,
              moment + r.chance * least(longest_pause, first_pause * 2.0 ^ least(30, d.attempts - 1)))) END
        WHERE id = r.which;
      IF d.failed_at IS NOT NULL THEN
        RETURN QUERY SELECT d.id, d.account_id, d.endpoint, 'failed';
      END IF;
      e.failures := coalesce(e.failures, 0) + (d.attempts = 1 OR e.paused_until IS NOT NULL)::int;
      IF e.failures >= enough AND e.paused_until IS NULL THEN
        RETURN QUERY SELECT d.id, d.account_id, d.endpoint, 'dead';
      END IF;
      IF e.failures >= enough THEN
        -- What has waited here for too long fails without an attempt of its own. Where there is more of it than one
        -- call may drop, the next attempt comes without a pause.
        FOR uid IN
          UPDATE @schema@.webhook_deliveries
            SET due_at = NULL, leased_until = NULL, failed_at = moment,
                error = concat('not tried, others failed: ', r.error)
            WHERE id = ANY (ARRAY(
              SELECT id FROM (
                SELECT id, since, leased_until FROM @schema@.webhook_deliveries
                WHERE account_id = d.account_id AND endpoint = d.endpoint AND due_at > '-infinity'
                ORDER BY due_at LIMIT droppable) first
              WHERE since < moment - keep AND (leased_until > moment) IS NOT TRUE))
            RETURNING invoice
        LOOP
          PERFORM @schema@.advance_webhooks(uid, each);
          droppable := droppable - 1;
        END LOOP;
        e.paused_until := moment;
        IF droppable > 0 OR (
          SELECT since FROM @schema@.webhook_deliveries
          WHERE account_id = d.account_id AND endpoint = d.endpoint AND due_at > '-infinity'
            AND (leased_until > moment) IS NOT TRUE
          ORDER BY due_at LIMIT 1) < moment - keep IS NOT TRUE
        THEN
          e.paused_until := moment + r.chance * least(
            longest_pause, first_pause * 2.0 ^ least(30, e.failures - enough));
        END IF;
      END IF;
      INSERT INTO @schema@.webhook_endpoints AS known
          (account_id, endpoint, failures, failing_since, paused_until, wait_until, error)
        VALUES (d.account_id, d.endpoint, e.failures, moment, e.paused_until, asked, r.error)
        ON CONFLICT (account_id, endpoint) DO UPDATE
        SET failures = EXCLUDED.failures, failing_since = coalesce(known.failing_since, moment),
            paused_until = EXCLUDED.paused_until, wait_until = greatest(known.wait_until, EXCLUDED.wait_until),
            error = EXCLUDED.error,
            due_at = CASE WHEN e.is_failing THEN known.due_at END;
    END IF;
    PERFORM @schema@.schedule_endpoint(d.account_id, d.endpoint, each, false);
    PERFORM @schema@.advance_webhooks(d.invoice, each);
  END LOOP;
END
$$;

-- Have some deliveries be as new, with all their time, and their endpoints neither be dead nor wait. What another
-- database queued stays as it is. Return how many. The caller has the queue's lock.
CREATE FUNCTION @schema@.revive_webhooks(ids text[]) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  here constant text := @schema@.this_database();
  revived int;
BEGIN
  WITH again AS (
    UPDATE @schema@.webhook_deliveries
    SET due_at = '-infinity', failed_at = NULL, attempts = CASE WHEN failed_at IS NULL THEN attempts ELSE 0 END,
        since = CASE WHEN failed_at IS NULL THEN since ELSE clock_timestamp() END
    WHERE id = ANY (ids) AND NOT is_held AND origin = here
    RETURNING account_id, endpoint),
  alive AS (
    UPDATE @schema@.webhook_endpoints
    SET failures = CASE WHEN paused_until IS NULL THEN failures ELSE 0 END, paused_until = NULL, wait_until = NULL
    WHERE (paused_until IS NOT NULL OR wait_until IS NOT NULL)
      AND (account_id, endpoint) IN (SELECT account_id, endpoint FROM again))
  SELECT count(*) INTO revived FROM again;
  RETURN revived;
END
$$;

-- See 0015. New: what was delivered is sent again, if it is remembered.
CREATE OR REPLACE FUNCTION @schema@.retry_webhooks(wanted text, upto timestamptz, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  ids text[] := ARRAY[wanted];
  here constant text := @schema@.this_database();
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  IF wanted IS NULL THEN
    ids := ARRAY(SELECT id FROM @schema@.webhook_deliveries
                 WHERE failed_at < upto AND NOT is_held AND origin = here ORDER BY failed_at, seq LIMIT most);
  ELSE
    WITH again AS (DELETE FROM @schema@.webhook_history WHERE id = wanted AND origin = here RETURNING *)
    INSERT INTO @schema@.webhook_deliveries
        (id, seq, event_name, origin, invoice, account_id, endpoint, url, type, data, previous)
      SELECT id, seq, event_name, origin, invoice, account_id, endpoint, url, type, data, previous FROM again
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN @schema@.revive_webhooks(ids);
END
$$;

-- The same for all that failed or waits for a time or an endpoint, among the next `most` by id: return how many these
-- are, and the last id, after which to go on; NULL: there are no more. So each is retried once, even if it fails at once.
CREATE FUNCTION @schema@.retry_all_webhooks(after text, most int, OUT retried int, OUT last text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  moment constant timestamptz := clock_timestamp();
  ids text[];
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  ids := ARRAY(SELECT id FROM @schema@.webhook_deliveries WHERE id > after ORDER BY id LIMIT most);
  last := ids[cardinality(ids)];
  retried := @schema@.revive_webhooks(ARRAY(
    SELECT id FROM @schema@.webhook_deliveries WHERE id = ANY (ids)
    AND (failed_at IS NOT NULL OR due_at > '-infinity' AND (leased_until > moment) IS NOT TRUE)));
END
$$;

-- Forget what was delivered longer ago than `age`, at most `most`; return how many. Of many that do so at once, none
-- waits for another one.
CREATE FUNCTION @schema@.trim_webhook_history(age interval, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  upto constant timestamptz := clock_timestamp() - age;
  trimmed int;
BEGIN
  DELETE FROM @schema@.webhook_history WHERE id = ANY (ARRAY(
    SELECT id FROM @schema@.webhook_history WHERE delivered_at < upto
    ORDER BY delivered_at LIMIT most FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS trimmed = ROW_COUNT;
  RETURN trimmed;
END
$$;


-- What can't be a URL ------------------------------------------------------------------------------------------------

-- Whether it is an http or https URL with a host that can be one, a port from 1 to 65535 or none, and without user and
-- password. In a label of a name there may be whatever is not ASCII, and letters, digits, - and _. The pattern is that
-- of messages.py.
CREATE FUNCTION @schema@.is_url(url text) RETURNS bool LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN length(url) <= 2000 AND url ~ (
  '^https?://'
  '(?:[^\u0001-,./:-@\[-^`{-\u007f]+(?:\.[^\u0001-,./:-@\[-^`{-\u007f]+)*\.?'
  '|\[[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\])'
  '(?::(?:0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?'
  '(?:[/?#][^\u0001-\u0020\u007f]*)?$');

-- See 0013. New: is_url(). What is as it was is left alone here, too.
CREATE OR REPLACE FUNCTION @schema@.invoice_fault(n @schema@.invoices, o @schema@.invoices) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN length(n.memo) > 1000 AND n.memo IS DISTINCT FROM o.memo
    THEN 'memo: at most 1000 characters'
  WHEN NOT (length(n.address) <= 128 AND n.address ~ '^[^\u0001-\u0020\u007f]+$')
       AND n.address IS DISTINCT FROM o.address
    THEN 'address: 1 to 128 characters, none of them a space or control character'
  WHEN NOT @schema@.is_url(n.webhook_url) AND n.webhook_url IS DISTINCT FROM o.webhook_url
    THEN 'webhook_url: an http or https URL of at most 2000 characters'
  WHEN NOT @schema@.is_url(n.redirect_url) AND n.redirect_url IS DISTINCT FROM o.redirect_url
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
