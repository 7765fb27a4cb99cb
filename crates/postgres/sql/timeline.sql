-- The timeline that is written to now, and how far; pg_control_checkpoint() would have the one of the last checkpoint.
SELECT left(pg_walfile_name(lsn), 8), (lsn - '0/0'::pg_lsn)::text FROM pg_current_wal_insert_lsn() AS lsn
