-- What a dump reads: tables with their long values, without indexes.
SELECT coalesce(sum(pg_table_size(c.oid)), 0)::int8
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
