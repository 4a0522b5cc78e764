-- A log that was restored is another log.

-- Which log this is: see 0001 and 0003. New: the numbers that the database and the table have in their cluster, so
-- that a dump restored into the same cluster is another log too, though it brings the epoch along.
CREATE OR REPLACE FUNCTION event_epoch() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT left(md5(concat_ws(' ', epoch, system_identifier, event_log.tableoid, pg_database.oid)), 8) || '-'
      || ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
  FROM event_log, pg_control_system(), pg_database
  WHERE datname = current_database()
$$;
