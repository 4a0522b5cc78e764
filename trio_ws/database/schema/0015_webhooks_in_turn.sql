-- Webhooks go out in turn: first by account, then by endpoint. A claim costs what is due.
--
-- Accounts, their endpoints and deliveries each have a `due_at`: when the next attempt there may be made, NULL where
-- nothing waits or what waits may not go yet. A claim takes the account that has been due for longest, of this the
-- endpoint, and of that the delivery, each by one look into an index. What was taken goes to the end of its queue. So
-- a claim reads neither endpoints that have nothing due, nor deliveries that wait.
--
-- An endpoint whose attempts fail is in a queue of its own, which has half of the places. Once several deliveries in a
-- row have failed it is dead: it gets one attempt at a time, with growing pauses, until one succeeds.
--
-- An account or an endpoint has a row only while something is due there, and an endpoint also while it fails. A claim
-- removes what it finds without anything due.
--
-- What another database has queued is held: this is a copy of it, and the receivers are that one's. It has failed
-- without an attempt, until somebody has it released.
--
-- All that changes the queue holds one lock, before it locks a row.

CREATE TABLE @schema@.webhook_accounts (
  account_id bigint,
  is_failing bool,
  due_at     timestamptz NOT NULL,  -- the earliest of its endpoints that do or don't fail
  PRIMARY KEY (account_id, is_failing)
);
CREATE INDEX webhook_accounts_due ON @schema@.webhook_accounts (is_failing, due_at);

-- Two accounts with the same URL have nothing to do with each other.
CREATE TABLE @schema@.webhook_endpoints (
  account_id    bigint,
  endpoint      text,
  due_at        timestamptz,        -- the earliest of its deliveries, if it may have one more attempt at a time
  failures      int NOT NULL DEFAULT 0,  -- in a row: of different deliveries until it is dead, of any after that
  failing_since timestamptz,        -- NULL: the last attempt succeeded, or there was none
  paused_until  timestamptz,        -- of a dead one, and only of such
  error         text,               -- of the last attempt
  is_failing    bool GENERATED ALWAYS AS (failing_since IS NOT NULL) STORED,
  PRIMARY KEY (account_id, endpoint)
);
CREATE INDEX webhook_endpoints_due ON @schema@.webhook_endpoints (account_id, is_failing, due_at)
  WHERE due_at IS NOT NULL;
CREATE INDEX webhook_endpoints_failing ON @schema@.webhook_endpoints (failing_since) WHERE failing_since IS NOT NULL;

-- A delivery's `due_at`: '-infinity' of a new one, which no claim has seen yet; NULL while it waits for an older one of
-- its invoice, or has failed; while an attempt is under way, when its lease ends.
ALTER TABLE @schema@.webhook_deliveries
  ALTER COLUMN due_at DROP NOT NULL, ALTER COLUMN due_at SET DEFAULT '-infinity',
  ADD COLUMN is_held bool NOT NULL DEFAULT false;  -- of some of those that failed
UPDATE @schema@.webhook_deliveries SET due_at = CASE WHEN failed_at IS NULL THEN '-infinity'::timestamptz END;

DROP INDEX @schema@.webhook_deliveries_due, @schema@.webhook_deliveries_leased;
CREATE INDEX webhook_deliveries_new ON @schema@.webhook_deliveries (seq) WHERE due_at = '-infinity';
CREATE INDEX webhook_deliveries_due ON @schema@.webhook_deliveries (account_id, endpoint, due_at, seq);
CREATE INDEX webhook_deliveries_leased ON @schema@.webhook_deliveries (account_id, endpoint, leased_until)
  WHERE leased_until IS NOT NULL;
CREATE INDEX webhook_deliveries_failed ON @schema@.webhook_deliveries (failed_at, seq) WHERE failed_at IS NOT NULL;
CREATE INDEX webhook_deliveries_origin ON @schema@.webhook_deliveries (origin) WHERE failed_at IS NULL;
CREATE INDEX webhook_deliveries_held ON @schema@.webhook_deliveries (seq) WHERE is_held;

-- Say when an account is due; it keeps its turn, unless it was `served`.
CREATE FUNCTION @schema@.schedule_account(account bigint, failing bool, served bool) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  moment constant timestamptz := clock_timestamp();
  turn timestamptz;
  next_at timestamptz;
BEGIN
  SELECT due_at INTO turn FROM @schema@.webhook_accounts WHERE account_id = account AND is_failing = failing;
  SELECT due_at INTO next_at FROM @schema@.webhook_endpoints
    WHERE account_id = account AND is_failing = failing AND due_at IS NOT NULL ORDER BY due_at LIMIT 1;
  IF next_at <= moment THEN
    next_at := CASE WHEN served THEN moment ELSE least(turn, moment) END;
  END IF;
  IF next_at IS NULL THEN
    DELETE FROM @schema@.webhook_accounts WHERE account_id = account AND is_failing = failing;
  ELSIF next_at IS DISTINCT FROM turn THEN
    INSERT INTO @schema@.webhook_accounts (account_id, is_failing, due_at) VALUES (account, failing, next_at)
      ON CONFLICT (account_id, is_failing) DO UPDATE SET due_at = EXCLUDED.due_at;
  END IF;
END
$$;

-- Say when an endpoint and its account are due; they keep their turn, unless they were `served`.
CREATE FUNCTION @schema@.schedule_endpoint(account bigint, name text, each int, served bool) RETURNS void
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
  IF e.paused_until > next_at THEN
    next_at := e.paused_until;
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

-- Have the oldest delivery that is left of an invoice be due, if it waits. A comparison of rows fits only the index
-- by invoice, whatever the statistics say.
CREATE FUNCTION @schema@.advance_webhooks(uid text, each int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  oldest @schema@.webhook_deliveries;
BEGIN
  SELECT * INTO oldest FROM @schema@.webhook_deliveries
    WHERE (invoice, seq) > (uid, 0) AND invoice <= uid AND failed_at IS NULL ORDER BY invoice, seq LIMIT 1;
  IF FOUND AND oldest.due_at IS NULL THEN
    UPDATE @schema@.webhook_deliveries SET due_at = clock_timestamp() WHERE id = oldest.id;
    PERFORM @schema@.schedule_endpoint(oldest.account_id, oldest.endpoint, each, false);
  END IF;
END
$$;

-- Take deliveries that are due, and hold them for as long as `lease`. Of an invoice only the oldest that is left; of an
-- account's endpoint at most `each` at a time, whoever holds them, or one if it fails.
--
-- The caller has `most` places. It uses those that `held` (accounts) and `failing` (whether the endpoint does) say.
-- Endpoints that fail have at most half of them, others at most 7/8. Of these, an account gets no more than it leaves
-- free, so that the next account always finds one: Choudhury and Hahne, "Dynamic Queue Length Thresholds for
-- Shared-Memory Packet Switches", 1998.
DROP FUNCTION @schema@.claim_webhooks(int, int, interval);
CREATE FUNCTION @schema@.claim_webhooks(most int, each int, lease interval, held bigint[], failing bool[])
RETURNS TABLE (id text, seq bigint, event_name text, account_id bigint, url text, type text, data json, previous json,
               attempts int, is_failing bool)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
  seen_at_once constant int := 200;   -- new deliveries: some 50 ms
  moment timestamptz := clock_timestamp();
  here text;
  new record;
  which bool;
  free int;
  skipped bigint[];                     -- accounts that may not have more now
  account bigint;
  name text;
  due record;
BEGIN
  IF NOT EXISTS (SELECT FROM @schema@.webhook_deliveries WHERE due_at = '-infinity')
     AND NOT EXISTS (SELECT FROM @schema@.webhook_accounts WHERE NOT is_failing AND due_at <= moment)
     AND NOT EXISTS (SELECT FROM @schema@.webhook_accounts WHERE is_failing AND due_at <= moment) THEN
    RETURN;  -- an idle poll takes no lock and writes nothing
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  here := @schema@.this_database();

  FOR new IN
    WITH seen AS (
      UPDATE @schema@.webhook_deliveries d
      SET due_at = CASE WHEN NOT EXISTS (
        SELECT FROM @schema@.webhook_deliveries older
        WHERE (older.invoice, older.seq) < (d.invoice, d.seq) AND older.invoice >= d.invoice
          AND older.failed_at IS NULL)
        THEN greatest(moment, d.leased_until) END
      WHERE d.id = ANY (ARRAY(
        SELECT id FROM @schema@.webhook_deliveries WHERE due_at = '-infinity' ORDER BY seq LIMIT seen_at_once))
      RETURNING d.seq, d.account_id, d.endpoint)
    SELECT account_id, endpoint FROM seen GROUP BY account_id, endpoint ORDER BY min(seq)
  LOOP
    PERFORM @schema@.schedule_endpoint(new.account_id, new.endpoint, each, false);
  END LOOP;

  FOREACH which IN ARRAY ARRAY[false, true] LOOP
    skipped := '{}';
    LOOP
      free := least(most - cardinality(held),
                    greatest(1, CASE WHEN which THEN most / 2 ELSE most - most / 8 END)
                    - cardinality(array_positions(failing, which)));
      EXIT WHEN free <= 0;
      moment := clock_timestamp();
      SELECT account_id INTO account FROM @schema@.webhook_accounts
        WHERE is_failing = which AND due_at <= moment AND account_id <> ALL (skipped) ORDER BY due_at LIMIT 1;
      EXIT WHEN NOT FOUND;
      IF (SELECT count(*) FROM unnest(held, failing) h (whose, fails) WHERE whose = account AND fails = which) >= free
      THEN
        skipped := skipped || account;
        CONTINUE;
      END IF;
      SELECT endpoint INTO name FROM @schema@.webhook_endpoints
        WHERE account_id = account AND is_failing = which AND due_at <= moment ORDER BY due_at LIMIT 1;
      IF NOT FOUND THEN  -- it fails now, or no longer
        PERFORM @schema@.schedule_account(account, which, true);
        CONTINUE;
      END IF;
      SELECT id, seq, invoice, origin INTO due FROM @schema@.webhook_deliveries
        WHERE account_id = account AND endpoint = name AND due_at > '-infinity' AND due_at <= moment
        ORDER BY due_at, seq LIMIT 1;
      IF FOUND AND due.origin <> here THEN  -- it has just come: hold_webhooks() is not through
        UPDATE @schema@.webhook_deliveries
          SET is_held = true, failed_at = moment, due_at = NULL, leased_until = NULL WHERE id = due.id;
        PERFORM @schema@.advance_webhooks(due.invoice, each);
      ELSIF FOUND AND EXISTS (SELECT FROM @schema@.webhook_deliveries
                           WHERE (invoice, seq) < (due.invoice, due.seq) AND invoice >= due.invoice
                             AND failed_at IS NULL) THEN  -- an older one of its invoice was retried
        UPDATE @schema@.webhook_deliveries SET due_at = NULL, leased_until = NULL WHERE id = due.id;
        PERFORM @schema@.advance_webhooks(due.invoice, each);
      ELSIF FOUND THEN
        RETURN QUERY
          UPDATE @schema@.webhook_deliveries d
          SET leased_until = moment + lease, due_at = moment + lease, attempts = d.attempts + 1
          WHERE d.id = due.id
          RETURNING d.id, d.seq, d.event_name, d.account_id, d.url, d.type, d.data, d.previous, d.attempts, which;
        held := held || account;
        failing := failing || which;
      END IF;
      PERFORM @schema@.schedule_endpoint(account, name, each, true);
    END LOOP;
  END LOOP;
END
$$;

-- Note what came of attempts: of each the delivery, the attempt's number, and 'delivered', 'failed', or 'released'
-- where none was made; with the error, and a number from 0 to 1 for jitter. Return what has changed: 'failed' of a
-- delivery that was tried for as long as `keep`, 'dead' and 'alive' of an endpoint.
CREATE FUNCTION @schema@.settle_webhooks(
  ids text[], tries int[], results text[], errors text[], chances float8[],
  first_pause interval, longest_pause interval, keep interval, each int)
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
  uid text;
  droppable int := 500;                -- some 100 ms, however many outcomes there are
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  FOR r IN SELECT * FROM unnest(ids, tries, results, errors, chances) u (which, try, result, error, chance) LOOP
    moment := clock_timestamp();
    SELECT * INTO d FROM @schema@.webhook_deliveries WHERE id = r.which;
    CONTINUE WHEN NOT FOUND;
    -- Another attempt has begun since, or the caller says it for the second time. What was delivered, was. (Who outlives
    -- its lease and a retry by hand may take that one's first attempt for its own: then it is sent once more.)
    CONTINUE WHEN r.result <> 'delivered' AND (d.attempts <> r.try OR d.leased_until IS NULL);
    SELECT * INTO e FROM @schema@.webhook_endpoints WHERE account_id = d.account_id AND endpoint = d.endpoint;

    IF r.result = 'delivered' THEN
      DELETE FROM @schema@.webhook_deliveries WHERE id = r.which;
      IF e.is_failing THEN
        UPDATE @schema@.webhook_endpoints
          SET failures = 0, failing_since = NULL, paused_until = NULL, error = NULL, due_at = NULL
          WHERE account_id = d.account_id AND endpoint = d.endpoint;
      END IF;
      IF e.paused_until IS NOT NULL THEN
        RETURN QUERY SELECT d.id, d.account_id, d.endpoint, 'alive';
      END IF;

    ELSIF r.result = 'released' THEN
      UPDATE @schema@.webhook_deliveries SET leased_until = NULL, due_at = moment WHERE id = r.which;

    ELSE
      d.failed_at := CASE WHEN moment >= d.since + keep THEN moment END;
      UPDATE @schema@.webhook_deliveries
        SET leased_until = NULL, error = r.error, failed_at = d.failed_at,
            due_at = CASE WHEN d.failed_at IS NULL THEN least(d.since + keep, moment + r.chance * least(
              longest_pause, first_pause * 2.0 ^ least(30, d.attempts - 1))) END
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
          (account_id, endpoint, failures, failing_since, paused_until, error)
        VALUES (d.account_id, d.endpoint, e.failures, moment, e.paused_until, r.error)
        ON CONFLICT (account_id, endpoint) DO UPDATE
        SET failures = EXCLUDED.failures, failing_since = coalesce(known.failing_since, moment),
            paused_until = EXCLUDED.paused_until, error = EXCLUDED.error,
            due_at = CASE WHEN e.is_failing THEN known.due_at END;
    END IF;
    PERFORM @schema@.schedule_endpoint(d.account_id, d.endpoint, each, false);
    PERFORM @schema@.advance_webhooks(d.invoice, each);
  END LOOP;
END
$$;

-- Have a delivery be as new, with all its time, and its endpoint not be dead. Where `wanted` is NULL: those that failed
-- before `upto`, at most `most` of them. What another database queued stays as it is. Return how many.
CREATE FUNCTION @schema@.retry_webhooks(wanted text, upto timestamptz, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  ids text[] := ARRAY[wanted];
  here constant text := @schema@.this_database();
  retried int;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  IF wanted IS NULL THEN
    ids := ARRAY(SELECT id FROM @schema@.webhook_deliveries
                 WHERE failed_at < upto AND NOT is_held AND origin = here ORDER BY failed_at, seq LIMIT most);
  END IF;
  WITH again AS (
    UPDATE @schema@.webhook_deliveries
    SET due_at = '-infinity', failed_at = NULL, attempts = CASE WHEN failed_at IS NULL THEN attempts ELSE 0 END,
        since = CASE WHEN failed_at IS NULL THEN since ELSE clock_timestamp() END
    WHERE id = ANY (ids) AND NOT is_held AND origin = here
    RETURNING account_id, endpoint),
  alive AS (
    UPDATE @schema@.webhook_endpoints SET failures = 0, paused_until = NULL
    WHERE paused_until IS NOT NULL AND (account_id, endpoint) IN (SELECT account_id, endpoint FROM again))
  SELECT count(*) INTO retried FROM again;
  RETURN retried;
END
$$;

-- Hold what another database has queued, at most `most`; return how many. What waited for these goes on.
CREATE FUNCTION @schema@.hold_webhooks(most int, each int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  here constant text := @schema@.this_database();
  ids text[];
  uid text;
  place record;
BEGIN
  IF NOT EXISTS (SELECT FROM @schema@.webhook_deliveries WHERE failed_at IS NULL AND origin < here)
     AND NOT EXISTS (SELECT FROM @schema@.webhook_deliveries WHERE failed_at IS NULL AND origin > here) THEN
    RETURN 0;  -- nearly always: it takes no lock and writes nothing
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  ids := ARRAY(
    SELECT id FROM @schema@.webhook_deliveries WHERE failed_at IS NULL AND origin < here
    UNION ALL SELECT id FROM @schema@.webhook_deliveries WHERE failed_at IS NULL AND origin > here LIMIT most);
  UPDATE @schema@.webhook_deliveries
    SET is_held = true, failed_at = clock_timestamp(), due_at = NULL, leased_until = NULL WHERE id = ANY (ids);
  FOR uid IN SELECT DISTINCT invoice FROM @schema@.webhook_deliveries WHERE id = ANY (ids) LOOP
    PERFORM @schema@.advance_webhooks(uid, each);
  END LOOP;
  FOR place IN SELECT DISTINCT account_id, endpoint FROM @schema@.webhook_deliveries WHERE id = ANY (ids) LOOP
    PERFORM @schema@.schedule_endpoint(place.account_id, place.endpoint, each, false);
  END LOOP;
  RETURN cardinality(ids);
END
$$;

-- Have what another database has queued be this one's, at most `most`; return how many. What was held is as new, with
-- all its time; what had failed there has failed here.
CREATE FUNCTION @schema@.release_webhooks(most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here constant text := @schema@.this_database();
  released int;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  UPDATE @schema@.webhook_deliveries
    SET origin = here, is_held = false,
        failed_at = CASE WHEN NOT is_held THEN failed_at END,
        due_at = CASE WHEN is_held OR failed_at IS NULL THEN '-infinity'::timestamptz END,
        since = CASE WHEN is_held THEN clock_timestamp() ELSE since END
    WHERE id = ANY (ARRAY(SELECT id FROM @schema@.webhook_deliveries WHERE origin <> here LIMIT most));
  GET DIAGNOSTICS released = ROW_COUNT;
  RETURN released;
END
$$;

-- Forget deliveries that failed or were held longer ago than `age`, and endpoints that fail for longer and have no
-- delivery at all, at most `most` of each; return the larger of the two numbers.
CREATE FUNCTION @schema@.trim_webhooks(age interval, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  upto constant timestamptz := clock_timestamp() - age;
  trimmed int;
  forgotten int;
BEGIN
  IF NOT EXISTS (SELECT FROM @schema@.webhook_deliveries WHERE failed_at < upto)
     AND NOT EXISTS (SELECT FROM @schema@.webhook_endpoints WHERE failing_since < upto AND due_at IS NULL) THEN
    RETURN 0;  -- where there is nothing, nobody waits for the lock
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
  DELETE FROM @schema@.webhook_deliveries WHERE id = ANY (ARRAY(
    SELECT id FROM @schema@.webhook_deliveries WHERE failed_at < upto ORDER BY failed_at, seq LIMIT most));
  GET DIAGNOSTICS trimmed = ROW_COUNT;
  DELETE FROM @schema@.webhook_endpoints WHERE (account_id, endpoint) IN (
    SELECT account_id, endpoint FROM @schema@.webhook_endpoints e
    WHERE failing_since < upto AND due_at IS NULL AND NOT EXISTS (
      SELECT FROM @schema@.webhook_deliveries d WHERE d.account_id = e.account_id AND d.endpoint = e.endpoint)
    ORDER BY failing_since LIMIT most);
  GET DIAGNOSTICS forgotten = ROW_COUNT;
  RETURN greatest(trimmed, forgotten);
END
$$;

-- Whether a delivery that is due then, the oldest that is left of its invoice, is claimed one day.
CREATE FUNCTION @schema@.is_scheduled(account bigint, name text, due_at timestamptz) RETURNS bool
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  failing bool;
BEGIN
  IF due_at IS NULL OR due_at = '-infinity' THEN
    RETURN due_at IS NOT NULL;
  END IF;
  SELECT e.is_failing INTO failing FROM @schema@.webhook_endpoints e
    WHERE e.account_id = account AND e.endpoint = name AND e.due_at IS NOT NULL;
  RETURN FOUND AND EXISTS (SELECT FROM @schema@.webhook_accounts a
                           WHERE a.account_id = account AND a.is_failing = failing);
END
$$;

-- Have deliveries that nothing would ever claim be as new: somebody changed the tables beside these functions. Look at
-- `most` invoices after this one, at the oldest that is left of each. It waits, or nothing says when its endpoint or
-- account is due. Return the last invoice; NULL: there are no more. What is whole takes no lock and writes nothing.
CREATE FUNCTION @schema@.repair_webhooks(after text, most int) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  uid text := coalesce(after, '');
  number bigint := CASE WHEN after IS NULL THEN 0 ELSE 9223372036854775807 END;
  oldest record;
  lost text[] := '{}';
BEGIN
  FOR i IN 1 .. most LOOP
    SELECT invoice, account_id, endpoint, due_at INTO oldest FROM @schema@.webhook_deliveries
      WHERE (invoice, seq) > (uid, number) AND failed_at IS NULL ORDER BY invoice, seq LIMIT 1;
    IF NOT FOUND THEN
      uid := NULL;
      EXIT;
    END IF;
    uid := oldest.invoice;
    number := 9223372036854775807;
    IF NOT @schema@.is_scheduled(oldest.account_id, oldest.endpoint, oldest.due_at) THEN
      lost := lost || uid;
    END IF;
  END LOOP;
  IF cardinality(lost) > 0 THEN
    PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint);
    FOR i IN 1 .. cardinality(lost) LOOP  -- once more: it may have changed meanwhile
      SELECT id, account_id, endpoint, due_at INTO oldest FROM @schema@.webhook_deliveries
        WHERE (invoice, seq) > (lost[i], 0) AND invoice <= lost[i] AND failed_at IS NULL ORDER BY invoice, seq LIMIT 1;
      IF FOUND AND NOT @schema@.is_scheduled(oldest.account_id, oldest.endpoint, oldest.due_at) THEN
        UPDATE @schema@.webhook_deliveries SET due_at = '-infinity' WHERE id = oldest.id;
      END IF;
    END LOOP;
  END IF;
  RETURN uid;
END
$$;
