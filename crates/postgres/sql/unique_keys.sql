-- Unique indexes with their table and key columns, smallest table first; without partial indexes and those on
-- expressions.
SELECT format('%I.%I', n.nspname, x.relname) AS index,
       format('%I.%I', n.nspname, c.relname) AS "table",
       k.columns,
       k.sorts_text,
       pg_table_size(c.oid) AS bytes
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (
       SELECT array_agg(format('%I', a.attname) ORDER BY key.n) AS columns, bool_or(a.attcollation <> 0) AS sorts_text
         FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS key(attnum, n)
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.attnum
        WHERE key.n <= i.indnkeyatts) k
 WHERE i.indisunique AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
   AND c.relkind = 'r' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
   AND is_readable(c)
 ORDER BY bytes, 1
