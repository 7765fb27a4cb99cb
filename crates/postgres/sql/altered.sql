-- Tables with a row in the system catalogue that was written by transaction $2 (in 32 bits: $1) or a later one, because
-- they were renamed, truncated or rewritten, or a column was changed.
WITH since AS (
    SELECT age($1::text::xid)::int8 AS age, txid_snapshot_xmax(txid_current_snapshot()) - $2::int8 AS count
)
SELECT n.nspname::text, c.relname::text
  FROM since, pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r'
   AND ((since.age - age(c.xmin) & 4294967295) < since.count
        OR (since.age - age(n.xmin) & 4294967295) < since.count
        OR EXISTS (SELECT FROM pg_attribute a
                    WHERE a.attrelid = c.oid AND (since.age - age(a.xmin) & 4294967295) < since.count))
