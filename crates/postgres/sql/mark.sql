-- Which transactions have ended, and the OID of the database. This query assigns no transaction id.
SELECT txid_current_snapshot()::text, pg_is_in_recovery(), (SELECT oid::int8 FROM pg_database WHERE datname = current_database()),
       -- Whether our role is allowed to run timeline.sql.
       has_function_privilege('pg_catalog.pg_current_wal_insert_lsn()', 'EXECUTE')
       AND has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'EXECUTE')
