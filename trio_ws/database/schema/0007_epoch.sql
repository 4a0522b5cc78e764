-- A log that was restored is another log, and a clock that was set back silences nobody.

-- Which log this is: see 0001 and 0003. New: the numbers that the database and the table have in their cluster, so
-- that a dump restored into the same cluster is another log too, though it brings the epoch along.
CREATE OR REPLACE FUNCTION event_epoch() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT left(md5(concat_ws(' ', epoch, system_identifier, event_log.tableoid, pg_database.oid)), 8) || '-'
      || ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
  FROM event_log, pg_control_system(), pg_database
  WHERE datname = current_database()
$$;

-- Number what has committed and has no number yet: see 0001 and 0003. New: a last notification in the future, by a
-- clock that was set back by more than a second since, holds none back.
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
    IF told NOT BETWEEN clock_timestamp() - interval '10 ms' AND clock_timestamp() + interval '1 s' THEN
      told := clock_timestamp();
      PERFORM pg_notify('trio_ws', (before + numbered)::text);
    END IF;
    UPDATE event_log SET last = before + numbered, notified_at = told;
  END IF;
  RETURN numbered;
END
$$;
