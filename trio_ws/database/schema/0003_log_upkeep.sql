-- Upkeep of the event log: how far back it reaches, and fewer notifications.

ALTER TABLE event_log
  ADD COLUMN first bigint NOT NULL DEFAULT 1,             -- number of the first event that is still there
  ADD COLUMN notified_at timestamptz NOT NULL DEFAULT '-infinity';

-- For snapshots of an address.
CREATE INDEX invoices_address ON invoices (address) WHERE address IS NOT NULL;

-- Which log this is: see 0001. New: the cluster's own number, so that a dump restored into another cluster is
-- another log, though it brings the epoch along.
CREATE OR REPLACE FUNCTION event_epoch() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT left(md5(epoch::text || system_identifier), 8) || '-'
      || ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
  FROM event_log, pg_control_system()
$$;

-- Number what has committed and has no number yet: see 0001. New: whoever listens is told at most each
-- 10 ms, since NOTIFY takes a database-wide lock at commit; a tail that was told looks again after that time.
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
    IF told < clock_timestamp() - interval '10 ms' THEN
      told := clock_timestamp();
      PERFORM pg_notify('trio_ws', (before + numbered)::text);
    END IF;
    UPDATE event_log SET last = before + numbered, notified_at = told;
  END IF;
  RETURN numbered;
END
$$;

-- Delete events older than `age`, the oldest first, at most `most`, and note what is first now; return how
-- many. Events are deleted before `first` moves up for others to see, in one transaction, so nobody finds a gap.
CREATE FUNCTION trim_events(age interval, most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  upto bigint;
  trimmed int;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('trio_ws.trim_events')) THEN
    RETURN 0;  -- another process is at it
  END IF;
  SELECT max(seq) INTO upto
  FROM (SELECT seq, at FROM event WHERE seq IS NOT NULL ORDER BY seq LIMIT most) oldest
  WHERE at < clock_timestamp() - age;
  DELETE FROM event WHERE seq <= upto;
  GET DIAGNOSTICS trimmed = ROW_COUNT;
  IF trimmed > 0 THEN
    UPDATE event_log SET first = upto + 1;
  END IF;
  RETURN trimmed;
END
$$;
