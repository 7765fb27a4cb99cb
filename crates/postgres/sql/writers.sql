-- Transactions of other sessions on this database that have written or are prepared, and have not ended.
SELECT format('a transaction of %s is open (process %s)', usename, pid)
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND pid <> pg_backend_pid()
   AND usename IS NOT NULL
   AND backend_xid IS NOT NULL
   AND coalesce(application_name, '') NOT LIKE 'ess-migrate/%'
UNION ALL
SELECT format('the transaction %L is prepared and has not ended', gid) FROM pg_prepared_xacts WHERE database = current_database()
 LIMIT 1
