-- Tables without their indexes: about what an uncompressed dump holds.
SELECT coalesce(sum(pg_table_size(oid)), 0)::int8
  FROM pg_class
 WHERE relkind IN ('r', 'm') AND relpersistence <> 't'
   AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema')
