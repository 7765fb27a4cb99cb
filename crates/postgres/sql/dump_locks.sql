-- How many locks a dump and the digests that are computed meanwhile need: for each table, index and sequence. Doubled,
-- because several sessions hold each lock, and the server has room for two holders of each lock on average.
SELECT 2 * count(*)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'i', 'S') AND c.relpersistence <> 't'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
