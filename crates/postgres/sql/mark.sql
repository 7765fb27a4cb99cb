-- Which transactions are over. Reading this takes no transaction id.
SELECT txid_current_snapshot()::text, pg_is_in_recovery()
