-- Rows ever inserted into each table of which none was updated or deleted since. A session's share
-- is added when it ends at the latest; with a prepared transaction nothing is certain.
SELECT schemaname::text, relname::text, n_tup_ins
  FROM pg_stat_user_tables
 WHERE n_tup_upd = 0 AND n_tup_del = 0
   AND NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
