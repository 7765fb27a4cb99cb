-- The present timeline and WAL position. pg_control_checkpoint() would return the timeline of the last checkpoint.
SELECT left(pg_walfile_name(lsn), 8), (lsn - '0/0'::pg_lsn)::text FROM pg_current_wal_insert_lsn() AS lsn
