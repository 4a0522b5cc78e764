-- Numbering costs what is new, not what is there, and a large transaction delays no other's events.
--
-- Each event notes its transaction. A step reads the events of those transactions that have finished since the step
-- before. It reads neither what is not committed, nor what a long snapshot keeps of rows that have their number. A
-- transaction with more events than a step may number is numbered part by part, beside the events of others.
--
-- A position is a name and a number. A step gives all that it numbers one random name. Its commit depends on all steps
-- before it, so the same name at the same number means the same log up to there, on this PostgreSQL or another.


-- In the order in which writers come to them: a price or token first, its event last. With the log in hand, this would wait
-- for a writer that waits for the log: where a price is set ten times a second, no attempt would ever come through.
LOCK TABLE @schema@.prices IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE @schema@.tokens, @schema@.event IN ACCESS EXCLUSIVE MODE;


-- What a step knows -----------------------------------------------------------------------------------------------

-- Steps are appended, not updated: of one row that each step updates, a snapshot that is held for minutes would keep
-- each version, and each step would read all of them. The last step is found by the index.
CREATE TABLE @schema@.event_step (
  last        bigint PRIMARY KEY,           -- number of the last event that has one
  name        text NOT NULL,                -- its name
  below       bigint NOT NULL,              -- the events of transactions below this are numbered or in the backlog,
  open        bigint[] NOT NULL,            -- but for these, which had not finished
  is_full     bool NOT NULL DEFAULT false,  -- whether there was more than one step takes
  notified    bigint NOT NULL,              -- number of the last event that was notified of
  notified_at timestamptz NOT NULL,
  at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Transactions that have more events, or larger ones, than a step takes, or whose events have to come after those of
-- such a one.
CREATE TABLE @schema@.event_backlog (
  tx     bigint PRIMARY KEY,
  after  bigint NOT NULL DEFAULT 0,  -- id of its last event that has a number
  served bigint NOT NULL             -- when it had its turn, as a number of the log: they take turns
);

ALTER TABLE @schema@.event
  ADD COLUMN tx bigint,                          -- the writer's transaction; NULL: from before this migration
  ADD COLUMN subject bigint NOT NULL DEFAULT 0,  -- the row that it is about; its events keep their order
  ADD COLUMN webhook_id uuid,                    -- of its webhook, made with the row; NULL: it is not to be POSTed
  ADD COLUMN origin text;                        -- the database that wrote it; NULL: the one that numbers it
ALTER TABLE @schema@.event ALTER COLUMN tx SET DEFAULT pg_current_xact_id()::text::bigint;

-- No writer is under way here, for the table is locked. So what has no number yet is of this transaction.
UPDATE @schema@.event SET
  tx = pg_current_xact_id()::text::bigint,
  subject = CASE WHEN type LIKE 'invoice.%' THEN (data ->> 'id')::bigint ELSE 0 END,
  webhook_id = CASE WHEN type LIKE 'invoice.%' AND data ->> 'webhook_url' IS NOT NULL THEN gen_random_uuid() END
WHERE seq IS NULL;

-- What there is already has the name that clients know it by: their positions stay good. No row is rewritten. Where
-- event_epoch() is refused no server could run, so no client has a position.
CREATE FUNCTION @schema@.old_name() RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN @schema@.event_epoch();
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR object_not_in_prerequisite_state THEN
  RETURN (SELECT left(md5(epoch::text), 8) FROM @schema@.event_log);
END
$$;
ALTER TABLE @schema@.event ADD COLUMN name text DEFAULT @schema@.old_name();  -- of the step that numbered it
ALTER TABLE @schema@.event ALTER COLUMN name DROP DEFAULT;
ALTER TABLE @schema@.event_log ADD COLUMN trimmed_name text;  -- of the event before the first
UPDATE @schema@.event_log SET trimmed_name = @schema@.old_name();
ALTER TABLE @schema@.event_log ALTER COLUMN trimmed_name SET NOT NULL;

INSERT INTO @schema@.event_step (last, name, below, open, notified, notified_at)
  SELECT last, trimmed_name, pg_current_xact_id()::text::bigint, '{}', notified, '-infinity' FROM @schema@.event_log;

-- Which database this is. A copy of its data by dump and restore, CREATE DATABASE, pg_upgrade or replication is another
-- one; a physical standby that is promoted is the same. Where PostgreSQL lets nobody ask for the cluster's identifier,
-- it is the database's number alone. It reads pg_control, in some 50 µs. Whoever asks gets the answer that the owner
-- would.
CREATE FUNCTION @schema@.this_database() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  number constant text := (SELECT oid FROM pg_database WHERE datname = current_database());
BEGIN
  RETURN (SELECT system_identifier FROM pg_control_system())::text || '.' || number;
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
  RETURN number;
END
$$;
REVOKE EXECUTE ON FUNCTION @schema@.this_database() FROM PUBLIC;

-- A receiver knows a webhook by its id. It is the event's own: after a fail-over that lost the step, an event gets
-- another number, and another event this one's. What waits already keeps the id that it would have been sent with.
ALTER TABLE @schema@.webhook_deliveries RENAME COLUMN epoch TO event_name;
ALTER TABLE @schema@.webhook_deliveries
  ADD COLUMN id text,
  ADD COLUMN origin text NOT NULL DEFAULT @schema@.this_database();  -- the database that queued it
-- What a copy of an older database has brought along is known by its name: before the dash it says which database. It is
-- asked for once: 100 µs for each of 90 000 that wait would hold the log for 9 s.
UPDATE @schema@.webhook_deliveries SET id = event_name || '.' || seq,
  origin = CASE WHEN split_part(event_name, '-', 1) = (SELECT split_part(@schema@.old_name(), '-', 1)) THEN origin
                ELSE 'another' END;
ALTER TABLE @schema@.event_log ADD COLUMN origin text;  -- the database where a server last started; NULL: nowhere
ALTER TABLE @schema@.webhook_deliveries
  DROP CONSTRAINT webhook_deliveries_pkey, ADD PRIMARY KEY (id),
  ALTER COLUMN id SET DEFAULT gen_random_uuid()::text;

ALTER TABLE @schema@.event_log DROP COLUMN last, DROP COLUMN notified, DROP COLUMN notified_at, DROP COLUMN epoch;
DROP FUNCTION @schema@.old_name(), @schema@.event_epoch();

DROP INDEX @schema@.event_unnumbered;
CREATE INDEX event_unnumbered ON @schema@.event (tx, id) WHERE seq IS NULL;
CREATE INDEX event_unnumbered_subject ON @schema@.event (subject, id) WHERE seq IS NULL;

-- Where the log ends and begins, whether everybody was notified of all of it, and whether more is known to come.
CREATE VIEW @schema@.event_end AS
  SELECT step.name, step.last, log.trimmed_name, log.first, step.notified >= step.last AS is_told,
         step.is_full OR EXISTS (SELECT FROM @schema@.event_backlog) AS has_more
  FROM @schema@.event_log log
  CROSS JOIN LATERAL (SELECT name, last, notified, is_full FROM @schema@.event_step ORDER BY last DESC LIMIT 1) step;


-- Numbering ---------------------------------------------------------------------------------------------------------

-- Each query is read by one index and in its order, whatever the statistics say: they are as old as the last ANALYZE,
-- and the queue of events changes faster. The settings and the forms below leave no other plan. Planning each time
-- would take 1 ms of 1.4.

-- The bytes of an event once it is read. PostgreSQL may keep a memo of 1 MB in 12 KB.
CREATE FUNCTION @schema@.event_size(data json, previous json) RETURNS int LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN pg_column_compression(data) IS NULL THEN pg_column_size(data)
            ELSE octet_length(data::text) END
     + CASE WHEN pg_column_compression(previous) IS NULL THEN coalesce(pg_column_size(previous), 0)
            ELSE octet_length(previous::text) END;

-- What an event takes of a step: one, and one more for each KB.
CREATE FUNCTION @schema@.event_cost(data json, previous json) RETURNS int LANGUAGE sql STABLE PARALLEL SAFE
RETURN 1 + @schema@.event_size(data, previous) / 1024;

-- Find events of transactions that have finished, by (transaction, id), until there are none or their `cost` is more
-- than `most`. `below` and `open` are those of the last step. `upto` and `unfinished` say what this snapshot sees.
--
-- It is the heart of each step: what can be an expression is none of the queries, each of which takes 10 µs to begin.
CREATE FUNCTION @schema@.events_of_the_finished(
  below bigint, open bigint[], most int,
  OUT ids bigint[], OUT txs bigint[], OUT cost int, OUT upto bigint, OUT unfinished bigint[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  sees constant text[] := string_to_array(pg_current_snapshot()::text, ':');  -- 'xmin:xmax:xip,xip', in order
  lows bigint[];   -- the transactions that have finished since the last step, from here
  highs bigint[];  -- to there
  tx bigint;
BEGIN
  upto := sees[2];
  unfinished := string_to_array(sees[3], ',');
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN  -- our own may go on to write events
    unfinished := ARRAY(SELECT unnest(unfinished || pg_current_xact_id()::text::bigint) ORDER BY 1);
  END IF;
  FOREACH tx IN ARRAY open LOOP
    IF tx <> ALL (unfinished) THEN
      lows := lows || tx;
      highs := highs || tx;
    END IF;
  END LOOP;
  lows := lows || below;
  FOREACH tx IN ARRAY unfinished LOOP
    IF tx >= below AND tx < upto THEN
      highs := highs || tx - 1;
      lows := lows || tx + 1;
    END IF;
  END LOOP;
  highs := highs || upto - 1;

  SELECT coalesce(array_agg(id ORDER BY e.tx, id), '{}'), coalesce(array_agg(e.tx ORDER BY e.tx, id), '{}'),
         coalesce(max(total), 0)
  INTO ids, txs, cost FROM (
    SELECT found.*, sum(found.cost) OVER (ORDER BY found.tx, id) AS total FROM (
      SELECT e.id, e.tx, @schema@.event_cost(e.data, e.previous) AS cost
      FROM unnest(lows, highs) AS range (low, high) CROSS JOIN LATERAL (
        SELECT id, event.tx, data, previous FROM @schema@.event
        WHERE seq IS NULL AND event.tx >= low AND event.tx <= high ORDER BY event.tx, id LIMIT most + 1) e
      ORDER BY e.tx, e.id LIMIT most + 1) found) e
  WHERE e.total - e.cost <= most;
END
$$;

-- Return the first of some events whose row has an earlier event that has no number and is not among them. Where one
-- of them comes just before another, that one's turn says it all: so only the nearest earlier event is found.
CREATE FUNCTION @schema@.first_that_waits(ids bigint[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
  RETURN (
    SELECT min(e.id) FROM @schema@.event e
    CROSS JOIN LATERAL (
      SELECT id FROM @schema@.event
      WHERE seq IS NULL AND subject = e.subject AND id < e.id ORDER BY subject DESC, id DESC LIMIT 1) earlier
    WHERE e.id = ANY (ids) AND earlier.id <> ALL (ids));
END
$$;

-- Number what has committed and has no number yet, some `most` events, fewer if they are large (see event_cost()), and of
-- a backlog at least one of each; return how many. `read_upto` is the last event that the caller has read: it numbers
-- nothing that it could not read in its next step.
--
-- The row lock makes any number of callers safe: what comes after it has a snapshot from after it. A number is final
-- only once the caller's transaction has committed.
DROP FUNCTION @schema@.number_events(int);
CREATE FUNCTION @schema@.number_events(most int, read_upto bigint DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  few constant int := 16;           -- transactions of the backlog that have their turn in one step
  share constant int := 5;          -- of a step, the part of the backlog: what is new waits for a step or two
  idle constant int := 100000;      -- transactions after which a step is noted also where it numbers nothing
  step @schema@.event_step;
  again @schema@.event_step;
  entry @schema@.event_backlog;
  new record;
  before bigint;
  called text;
  part bigint[];
  cost int;
  cut bigint;                       -- transactions below are whole
  some_are_left bool;               -- finished, and not among the new ones of this step
  stop bigint;
  quota int := 0;
  served int;
BEGIN
  IF pg_is_in_recovery() THEN  -- it may be behind; where there is nothing to number, nothing else would say so
    RAISE read_only_sql_transaction USING MESSAGE = 'this is a standby, which only reads';
  END IF;
  SELECT * INTO step FROM @schema@.event_step ORDER BY last DESC LIMIT 1;
  IF step.last - read_upto >= most THEN
    RETURN 0;
  END IF;
  SELECT count(*) INTO served FROM (SELECT FROM @schema@.event_backlog LIMIT few) entries;
  IF served > 0 THEN
    quota := most / share;
  END IF;
  new := @schema@.events_of_the_finished(step.below, step.open, most - quota);
  IF new.ids = '{}' AND served = 0 AND NOT step.is_full AND new.upto BETWEEN step.below AND step.below + idle
     AND (step.notified = step.last OR step.notified_at
          BETWEEN clock_timestamp() - interval '10 ms' AND clock_timestamp() + interval '1 s') THEN
    RETURN 0;  -- an idle poll takes no lock and writes nothing
  END IF;

  PERFORM FROM @schema@.event_log FOR UPDATE;
  SELECT * INTO again FROM @schema@.event_step ORDER BY last DESC LIMIT 1;
  IF again IS DISTINCT FROM step THEN  -- another one has numbered meanwhile, and knows of more
    step := again;
    IF served = 0 AND NOT EXISTS (SELECT FROM @schema@.event WHERE id = ANY (new.ids) AND seq IS NULL) THEN
      -- And what there was for us. The lock was written down, and that alone need not wait for the disk.
      PERFORM set_config('synchronous_commit', 'off', true);
      RETURN 0;
    END IF;
    new := @schema@.events_of_the_finished(step.below, step.open, most - quota);
  END IF;
  IF new.upto < step.below THEN  -- these are transactions of another cluster, which a dump was made of
    step.below := 0;
    step.open := '{}';
    new := @schema@.events_of_the_finished(step.below, step.open, most - quota);
  END IF;
  before := step.last;
  called := left(gen_random_uuid()::text, 8);  -- of PostgreSQL's strong random numbers

  -- New events.
  cut := greatest(new.upto, step.below);
  step.is_full := new.cost > most - quota;
  some_are_left := step.is_full OR EXISTS (SELECT FROM @schema@.event_backlog);
  IF step.is_full THEN
    cut := new.txs[cardinality(new.txs)];
    IF new.txs[1] = cut THEN  -- more than a step takes
      INSERT INTO @schema@.event_backlog (tx, served) VALUES (cut, before);
      new.ids := '{}';
      cut := cut + 1;
    ELSE
      new.ids := new.ids[1 : array_position(new.txs, cut) - 1];
    END IF;
  END IF;
  IF some_are_left AND @schema@.first_that_waits(new.ids) IS NOT NULL THEN
    -- What is left has an earlier event of one of these rows. All of these wait in the backlog, each for what it must.
    INSERT INTO @schema@.event_backlog (tx, served)
      SELECT DISTINCT tx, before FROM unnest(new.txs) tx WHERE tx < cut;
    new.ids := '{}';
  END IF;
  -- In the order in which they were written: width_bucket() is the place in a sorted array.
  new.ids := ARRAY(SELECT id FROM unnest(new.ids) id ORDER BY id);
  UPDATE @schema@.event SET seq = before + width_bucket(id, new.ids), name = called WHERE id = ANY (new.ids);
  step.last := before + cardinality(new.ids);
  step.open := ARRAY(
    SELECT x FROM unnest(new.unfinished) x WHERE x < greatest(step.below, cut)
    UNION SELECT x FROM unnest(step.open) x WHERE x >= cut);
  step.below := greatest(step.below, cut);

  -- The backlog, each transaction in its turn. Each stops where a row has an earlier event elsewhere.
  IF some_are_left THEN
    SELECT count(*) INTO served FROM (SELECT FROM @schema@.event_backlog LIMIT few) entries;  -- with new ones
    quota := greatest(1, least(most / share, most - cardinality(new.ids)) / greatest(1, served));
    FOR entry IN SELECT * FROM @schema@.event_backlog ORDER BY served, tx LIMIT few LOOP
      SELECT coalesce(array_agg(id ORDER BY id), '{}'), coalesce(max(total), 0) INTO part, cost FROM (
        SELECT found.*, sum(found.cost) OVER (ORDER BY id) AS total FROM (
          SELECT id, @schema@.event_cost(data, previous) AS cost FROM @schema@.event
          WHERE seq IS NULL AND (tx, id) > (entry.tx, entry.after) AND tx <= entry.tx
          ORDER BY tx, id LIMIT quota) found) summed
      WHERE summed.total - summed.cost < quota;
      stop := @schema@.first_that_waits(part);
      IF stop IS NULL AND cost < quota THEN
        DELETE FROM @schema@.event_backlog WHERE tx = entry.tx;
      ELSE
        part := ARRAY(SELECT id FROM unnest(part) id WHERE id < stop IS NOT false ORDER BY id);
        UPDATE @schema@.event_backlog
          SET served = step.last + 1, after = coalesce(part[cardinality(part)], entry.after) WHERE tx = entry.tx;
      END IF;
      UPDATE @schema@.event SET seq = step.last + width_bucket(id, part), name = called WHERE id = ANY (part);
      step.last := step.last + cardinality(part);
    END LOOP;
  END IF;

  IF step.last > before THEN
    BEGIN
      INSERT INTO @schema@.webhook_deliveries
          (id, seq, event_name, origin, invoice, account_id, endpoint, url, type, data, previous)
        SELECT webhook_id::text, seq, name, coalesce(origin, (SELECT @schema@.this_database())), i.uid, i.account_id,
               @schema@.url_endpoint(i.webhook_url), i.webhook_url, type, data, previous
        FROM @schema@.event CROSS JOIN LATERAL
          json_to_record(data) AS i (uid text, account_id bigint, webhook_url text)  -- parsed once: it may be large
        WHERE seq > before AND seq <= step.last AND webhook_id IS NOT NULL
        ON CONFLICT DO NOTHING;
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR integrity_constraint_violation THEN
      -- Whatever a row may hold, it does not stop the log.
      RAISE WARNING 'webhooks of events % to % were not queued: %', before + 1, step.last, SQLERRM;
    END;
  END IF;

  -- NOTIFY takes a database-wide lock at commit: so at most each 10 ms.
  IF step.notified < step.last AND step.notified_at
     NOT BETWEEN clock_timestamp() - interval '10 ms' AND clock_timestamp() + interval '1 s' THEN
    step.notified := step.last;
    step.notified_at := clock_timestamp();
    PERFORM pg_notify('trio_ws', step.last::text);
  END IF;
  IF step.last > before THEN
    INSERT INTO @schema@.event_step (last, name, below, open, is_full, notified, notified_at)
      VALUES (step.last, called, step.below, step.open, step.is_full, step.notified, step.notified_at);
  ELSE
    UPDATE @schema@.event_step SET below = step.below, open = step.open, is_full = step.is_full,
      notified = step.notified, notified_at = step.notified_at, at = clock_timestamp() WHERE last = before;
  END IF;
  RETURN step.last - before;
END
$$;


-- Reading -----------------------------------------------------------------------------------------------------------

-- Read the log: [[name, number] of the event before the first, [name, number] of the last, what the event `known` is
-- called here, events after `after`, the time, whether everybody was notified of all, whether more is known to come].
--
-- Of the next `scan` events those of any of the `wanted` topics (NULL: of all), at most `most`, and no more once they
-- have `bytes`. It is STABLE, so that all of it is of one snapshot: the log may be trimmed meanwhile.
CREATE FUNCTION @schema@.read_log(after bigint, known bigint, wanted text[], scan int, most int, bytes int) RETURNS json
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  log record;
  found json := '[]';
BEGIN
  SELECT e.*, CASE known WHEN e.last THEN e.name WHEN e.first - 1 THEN e.trimmed_name
                         ELSE (SELECT name FROM @schema@.event WHERE seq = known) END AS known_as
  INTO log FROM @schema@.event_end e;
  IF log.last > after THEN
    after := greatest(after, log.first - 1);
    SELECT coalesce(json_agg(json_build_array(
        seq, type, topics, data, previous, extract(epoch FROM at)::float8, name) ORDER BY seq), '[]')
    INTO found FROM (
      SELECT *, sum(size) OVER (ORDER BY seq) - size AS before FROM (
        SELECT *, @schema@.event_size(data, previous) AS size FROM @schema@.event
        WHERE seq > after AND seq <= after + scan AND (wanted IS NULL OR topics && wanted)
        ORDER BY seq LIMIT most) next) sized
    WHERE before < bytes;
  END IF;
  RETURN json_build_array(
    json_build_array(log.trimmed_name, log.first - 1), json_build_array(log.name, log.last), log.known_as,
    found, extract(epoch FROM clock_timestamp())::float8, log.is_told, log.has_more);
END
$$;

-- Number what there is, at most `most`, and read on, at most `few`, in one round trip: see number_events() and read_log().
-- Events that are too large for that are left out.
--
-- Of an answer PostgreSQL keeps 8 KB back until the transaction has committed. More would go out before that, and who is
-- slow to read it would keep all others from numbering.
CREATE FUNCTION @schema@.advance(after bigint, most int, few int) RETURNS json
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  kept_back constant int := 7000;
  log json;
BEGIN
  PERFORM @schema@.number_events(most, after);
  log := @schema@.read_log(after, after, NULL::text[], few, few, kept_back);
  IF octet_length(convert_to(log::text, 'UTF8')) > kept_back THEN  -- as clients read it
    log := @schema@.read_log(after, after, NULL::text[], 0, 0, 0);
  END IF;
  RETURN log;
END
$$;

-- Take over what a dump from another cluster brought along and had no number there: its transactions may have numbers
-- that ours have not reached, and its webhooks are the other database's. Each server does it once, when it starts.
CREATE FUNCTION @schema@.adopt_events() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  here constant text := @schema@.this_database();
BEGIN
  IF EXISTS (SELECT FROM @schema@.event_log WHERE origin IS DISTINCT FROM here) THEN
    PERFORM FROM @schema@.event_log FOR UPDATE;
    UPDATE @schema@.event e SET origin = log.origin FROM @schema@.event_log log
      WHERE e.seq IS NULL AND e.webhook_id IS NOT NULL AND log.origin <> here;
    UPDATE @schema@.event_log SET origin = here;
  END IF;
  IF EXISTS (SELECT FROM @schema@.event
             WHERE seq IS NULL AND tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint) THEN
    UPDATE @schema@.event SET tx = pg_current_xact_id()::text::bigint
      WHERE seq IS NULL AND tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  END IF;
END
$$;


-- Trimming ----------------------------------------------------------------------------------------------------------

-- Delete events older than `age`, the oldest first, at most `most`, and note what is first now, and the name of the one
-- before it, which clients may go on from; return how many.
-- Events are deleted before `first` moves up for others to see, in one transaction, so nobody finds a gap.
CREATE OR REPLACE FUNCTION @schema@.trim_events(age interval, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  oldest bigint;
  upto bigint;
  called text;
  trimmed int;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('trio_ws.trim_events')::bigint) THEN
    RETURN 0;  -- another process is at it
  END IF;
  SELECT first INTO oldest FROM @schema@.event_log;
  -- Numbers have no gaps, so this is as many rows, whatever the statistics say.
  SELECT seq, name INTO upto, called FROM @schema@.event
  WHERE seq >= oldest AND seq < oldest + most AND at < clock_timestamp() - age ORDER BY seq DESC LIMIT 1;
  DELETE FROM @schema@.event WHERE seq >= oldest AND seq <= upto;
  GET DIAGNOSTICS trimmed = ROW_COUNT;
  IF trimmed > 0 THEN
    UPDATE @schema@.event_log SET first = upto + 1, trimmed_name = called;
    DELETE FROM @schema@.event_step
    WHERE last < (SELECT last FROM @schema@.event_step WHERE last <= upto ORDER BY last DESC LIMIT 1);
  END IF;
  RETURN trimmed;
END
$$;


-- Writing events down -----------------------------------------------------------------------------------------------

-- An invoice is its id, a price the same below zero. The events of one row keep their order, whatever is beside them.

DROP FUNCTION @schema@.log_event(text, text[], json, json);
CREATE FUNCTION @schema@.log_event(
  type text, topics text[], data json, previous json, subject bigint, has_webhook bool) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO @schema@.event (type, topics, data, previous, subject, webhook_id)
    VALUES (type, topics, data, previous, subject, CASE WHEN has_webhook THEN gen_random_uuid() END);
  IF current_setting('trio_ws.wakes_itself', true) IS DISTINCT FROM 'yes' THEN
    PERFORM pg_notify('trio_ws', '');
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_new_invoices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO @schema@.event (type, topics, data, subject, webhook_id)
    -- A row of new_invoices is a record, and becomes an invoice only where it is said to.
    SELECT 'invoice.created', @schema@.invoice_topics(i::@schema@.invoices),
           @schema@.invoice_json(i::@schema@.invoices), i.id,
           CASE WHEN i.webhook_url IS NOT NULL THEN gen_random_uuid() END
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
      @schema@.changed_fields(@schema@.invoice_json(OLD), @schema@.invoice_json(NEW)),
      NEW.id,
      NEW.webhook_url IS NOT NULL);
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION @schema@.log_price() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- Also before a TRUNCATE, for each price that goes: an event that is about all prices would have to wait for all.
CREATE OR REPLACE FUNCTION @schema@.log_price_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM @schema@.log_event('price.deleted'::text, ARRAY['prices'::text], json_build_object('id', OLD.id),
                               NULL::json, -OLD.id, false);
  ELSE
    PERFORM @schema@.log_event('price.deleted'::text, ARRAY['prices'::text], json_build_object('id', p.id),
                               NULL::json, -p.id, false)
    FROM @schema@.prices p;
  END IF;
  RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER log_truncate BEFORE TRUNCATE ON @schema@.prices
  FOR EACH STATEMENT EXECUTE FUNCTION @schema@.log_price_deleted();

-- Servers ask for tokens that have ended, and need no event of them.
DROP TRIGGER log_event ON @schema@.tokens;
DROP FUNCTION @schema@.log_token();

REVOKE EXECUTE ON FUNCTION @schema@.number_events(int, bigint), @schema@.trim_events(interval, int),
  @schema@.adopt_events(), @schema@.first_that_waits(bigint[]),
  @schema@.events_of_the_finished(bigint, bigint[], int), @schema@.event_cost(json, json),
  @schema@.event_size(json, json), @schema@.read_log(bigint, bigint, text[], int, int, int),
  @schema@.advance(bigint, int, int) FROM PUBLIC;
