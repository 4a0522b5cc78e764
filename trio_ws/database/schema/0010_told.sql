-- Whoever numbered without telling tells later, so that nobody else has to look.

ALTER TABLE event_log ADD COLUMN notified bigint NOT NULL DEFAULT 0;  -- number of the last event that was told of
UPDATE event_log SET notified = last;

-- Number what has committed and has no number yet: see 0008. New: what was not told of, because another
-- notification was less than 10 ms ago, is told of by the next call after that time, whether it numbers or not.
CREATE OR REPLACE FUNCTION number_events(most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  before bigint;
  told bigint;
  told_at timestamptz;
  numbered int;
BEGIN
  IF NOT EXISTS (SELECT FROM event WHERE seq IS NULL) AND NOT EXISTS (
    SELECT FROM event_log WHERE notified < last
    AND notified_at NOT BETWEEN clock_timestamp() - interval '10 ms' AND clock_timestamp() + interval '1 s')
  THEN
    RETURN 0;  -- an idle poll takes no lock and writes nothing
  END IF;
  SELECT last, notified, notified_at INTO before, told, told_at FROM event_log FOR UPDATE;
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
  END IF;
  IF before + numbered > told THEN
    IF told_at NOT BETWEEN clock_timestamp() - interval '10 ms' AND clock_timestamp() + interval '1 s' THEN
      told := before + numbered;
      told_at := clock_timestamp();
      PERFORM pg_notify('trio_ws', told::text);
    END IF;
    UPDATE event_log SET last = before + numbered, notified = told, notified_at = told_at;
  END IF;
  RETURN numbered;
END
$$;
