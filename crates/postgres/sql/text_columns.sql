-- Tables with their columns that contain text, largest table last; to be checked for bytes that are not UTF-8.
SELECT format('%I.%I', n.nspname, c.relname) AS "table",
       array_agg(a.attname::text ORDER BY a.attnum) AS columns
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
   -- Numbers, booleans and times contain no text in the database's encoding.
   AND t.typcategory NOT IN ('B', 'N', 'D', 'T') AND a.atttypid <> 'bytea'::regtype
   AND is_readable(c)
 GROUP BY c.oid, n.nspname, c.relname
 ORDER BY pg_table_size(c.oid), 1
