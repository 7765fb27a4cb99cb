-- Foreign keys that a restore checks, smallest table first, with the names of both tables and their columns in pairs.
SELECT k.conname::text AS name,
       format('%I.%I', n.nspname, c.relname) AS "table",
       format('%I.%I', rn.nspname, r.relname) AS other,
       CASE WHEN c.relkind = 'r' THEN 'ONLY ' ELSE '' END AS only,
       CASE WHEN r.relkind = 'r' THEN 'ONLY ' ELSE '' END AS other_only,
       (SELECT array_agg(format('%I', attname) ORDER BY key.n) FROM unnest(k.conkey) WITH ORDINALITY AS key(attnum, n)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.attnum) AS columns,
       (SELECT array_agg(format('%I', attname) ORDER BY key.n) FROM unnest(k.confkey) WITH ORDINALITY AS key(attnum, n)
          JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = key.attnum) AS other_columns,
       pg_table_size(c.oid) AS bytes
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = k.confrelid
  JOIN pg_namespace rn ON rn.oid = r.relnamespace
 -- Only MATCH SIMPLE and without PERIOD (PostgreSQL 18). The key of a partitioned table stands for its copies on
 -- partitions.
 WHERE NOT coalesce((to_jsonb(k) ->> 'conperiod')::bool, false) AND k.contype = 'f' AND k.convalidated AND k.confmatchtype = 's' AND k.conparentid = 0 AND c.relkind IN ('r', 'p') AND r.relkind IN ('r', 'p')
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
   AND is_readable(c) AND is_readable(r)
 ORDER BY bytes, 2, 1
