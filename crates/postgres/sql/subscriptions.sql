-- Enabled subscriptions of logical replication, which write into this database.
SELECT subname::text
  FROM pg_subscription
 WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subenabled
 ORDER BY 1
