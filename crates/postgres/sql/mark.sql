-- Which transactions are over, and which database this is, whatever it is called. Reading this takes no transaction id.
SELECT txid_current_snapshot()::text, pg_is_in_recovery(), (SELECT oid::int8 FROM pg_database WHERE datname = current_database()),
       -- A server can deny them to ordinary roles.
       has_function_privilege('pg_catalog.pg_current_wal_insert_lsn()', 'EXECUTE')
       AND has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'EXECUTE')
