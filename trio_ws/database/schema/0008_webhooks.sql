-- Webhooks: what is to be POSTed, in which order, and the secrets that sign it.

-- An account's newest two sign, so that a receiver may change from one to the other at its leisure.
CREATE TABLE webhook_secrets (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  -- 244 bits of pg_strong_random(); it is text, so that it can be copied.
  secret     text NOT NULL UNIQUE
             DEFAULT 'whsec_' || replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX webhook_secrets_account ON webhook_secrets (account_id, id);

CREATE FUNCTION add_webhook_secret() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO webhook_secrets (account_id) VALUES (NEW.id);
  RETURN NULL;
END
$$;

REVOKE EXECUTE ON FUNCTION add_webhook_secret() FROM PUBLIC;
CREATE TRIGGER add_webhook_secret AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION add_webhook_secret();
INSERT INTO webhook_secrets (account_id) SELECT id FROM accounts ORDER BY id;

-- What waits, and what was given up; what was delivered is gone. It holds its event whole, since the log may be
-- trimmed before it is delivered. No foreign key and no check: numbering the log must not fail, nor wait.
CREATE TABLE webhook_deliveries (
  seq          bigint PRIMARY KEY,         -- the event's
  epoch        text NOT NULL,              -- the log's, when it was queued
  invoice      text NOT NULL,              -- its uid: an invoice's deliveries go one after the other
  account_id   bigint NOT NULL,
  endpoint     text NOT NULL,              -- scheme://host:port, of which none may take up all room
  url          text NOT NULL,
  type         text NOT NULL,
  data         json NOT NULL,
  previous     json,
  since        timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when its time began
  attempts     int NOT NULL DEFAULT 0,
  due_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  leased_until timestamptz,                -- while a process is at it, and a while after it was killed
  failed_at    timestamptz,
  error        text                        -- of the last attempt
);
CREATE INDEX webhook_deliveries_order ON webhook_deliveries (invoice, seq) WHERE failed_at IS NULL;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint, due_at, seq) WHERE failed_at IS NULL;
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (endpoint) WHERE leased_until IS NOT NULL;

-- Without its user and password, so that it can be shown; '' where it is no URL at all. No longer than a name of a
-- host may be, for it is in an index, whose rows have a limit.
CREATE FUNCTION url_endpoint(url text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT left(coalesce(lower(substring(url, '^(\w+://)') || substring(url, '^\w+://(?:[^/?#]*@)?([^/?#]*)')), ''), 270)
$$;

-- Number what has committed and has no number yet: see 0003. New: what is to be POSTed is queued in the same
-- transaction, so that nothing is queued twice or forgotten, whichever process numbers and whatever is trimmed.
CREATE OR REPLACE FUNCTION number_events(most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  before bigint;
  told timestamptz;
  numbered int;
BEGIN
  IF NOT EXISTS (SELECT FROM event WHERE seq IS NULL) THEN
    RETURN 0;  -- an idle poll takes no lock and writes nothing
  END IF;
  SELECT last, notified_at INTO before, told FROM event_log FOR UPDATE;
  WITH waiting AS (
    SELECT id, row_number() OVER (ORDER BY id) AS place
    FROM (SELECT id FROM event WHERE seq IS NULL ORDER BY id LIMIT most) oldest)
  UPDATE event SET seq = before + place FROM waiting WHERE event.id = waiting.id;
  GET DIAGNOSTICS numbered = ROW_COUNT;
  IF numbered > 0 THEN
    BEGIN
      INSERT INTO webhook_deliveries (seq, epoch, invoice, account_id, endpoint, url, type, data, previous)
        SELECT seq, (SELECT event_epoch()), data ->> 'uid', (data ->> 'account_id')::bigint,
               url_endpoint(data ->> 'webhook_url'), data ->> 'webhook_url', type, data, previous
        FROM event
        -- LIKE is the quick look, which most do not pass; what passes by its memo is not taken.
        WHERE seq > before AND seq <= before + numbered AND type IN ('invoice.created', 'invoice.updated')
          AND data::text LIKE '%"webhook_url"%' AND data ->> 'webhook_url' IS NOT NULL
        ON CONFLICT DO NOTHING;
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR integrity_constraint_violation THEN
      -- Whatever a row may hold, it does not stop the log.
      RAISE WARNING 'webhooks of events % to % were not queued: %', before + 1, before + numbered, SQLERRM;
    END;
    IF told NOT BETWEEN clock_timestamp() - interval '10 ms' AND clock_timestamp() + interval '1 s' THEN
      told := clock_timestamp();
      PERFORM pg_notify('trio_ws', (before + numbered)::text);
    END IF;
    UPDATE event_log SET last = before + numbered, notified_at = told;
  END IF;
  RETURN numbered;
END
$$;

-- Take deliveries that are due, at most `most`, and hold them for as long as `lease`. Of an invoice, only the
-- oldest that is not finished; of an endpoint, at most `each` at a time, whoever holds them; and first those
-- of endpoints at which little is under way, so that slow ones keep no other waiting.
CREATE FUNCTION claim_webhooks(most int, each int, lease interval) RETURNS SETOF webhook_deliveries
LANGUAGE plpgsql AS $$
DECLARE
  moment timestamptz;
BEGIN
  IF NOT EXISTS (SELECT FROM webhook_deliveries WHERE failed_at IS NULL) THEN
    RETURN;  -- an idle look takes no lock
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks'));  -- one after the other sees what it took
  moment := clock_timestamp();
  RETURN QUERY
    WITH RECURSIVE endpoints AS (  -- one index look-up each, however much waits there
      (SELECT endpoint FROM webhook_deliveries WHERE failed_at IS NULL ORDER BY endpoint LIMIT 1)
      UNION ALL
      SELECT (SELECT d.endpoint FROM webhook_deliveries d
              WHERE d.failed_at IS NULL AND d.endpoint > e.endpoint ORDER BY d.endpoint LIMIT 1)
      FROM endpoints e WHERE e.endpoint IS NOT NULL),
    under_way AS (
      SELECT endpoint, count(*) AS held FROM webhook_deliveries WHERE leased_until > moment GROUP BY endpoint),
    due AS (
      SELECT next.seq, next.due_at, coalesce(u.held, 0)
             + row_number() OVER (PARTITION BY e.endpoint ORDER BY next.due_at, next.seq) AS place
      FROM endpoints e LEFT JOIN under_way u ON u.endpoint = e.endpoint
      CROSS JOIN LATERAL (
        SELECT d.seq, d.due_at FROM webhook_deliveries d
        WHERE d.endpoint = e.endpoint AND d.failed_at IS NULL AND d.due_at <= moment
          AND (d.leased_until IS NULL OR d.leased_until <= moment)
          AND NOT EXISTS (SELECT FROM webhook_deliveries older WHERE older.invoice = d.invoice
                          AND older.seq < d.seq AND older.failed_at IS NULL)
        ORDER BY d.due_at, d.seq LIMIT each) next),
    chosen AS (SELECT seq FROM due WHERE place <= each ORDER BY place, due_at, seq LIMIT most)
    UPDATE webhook_deliveries d SET leased_until = moment + lease, attempts = d.attempts + 1
    FROM chosen
    WHERE d.seq = chosen.seq AND d.failed_at IS NULL AND d.due_at <= moment
      AND (d.leased_until IS NULL OR d.leased_until <= moment)
    RETURNING d.*;
END
$$;
