-- The timeline that is written to now; pg_control_checkpoint() would have the one of the last checkpoint.
SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
