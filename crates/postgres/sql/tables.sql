-- Every ordinary table with its columns, largest first.
-- `exact`: types whose equality is equality of their text form. Left out on purpose:
-- numeric and jsonb (1.0 = 1.00), bpchar ('a' = 'a '), floats (0 = -0), and types without a hash.
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       c.relpersistence = 'u' AS unlogged,
       pg_total_relation_size(c.oid) AS bytes,
       coalesce(a.columns, '{}') AS columns,
       coalesce(a.exact, '{}') AS exact
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
       SELECT array_agg(attname::text ORDER BY attname::text COLLATE "C") AS columns,
              array_agg(atttypid IN (
                  'bool'::regtype, 'bytea'::regtype, 'int2'::regtype, 'int4'::regtype,
                  'int8'::regtype, 'oid'::regtype, 'text'::regtype, 'varchar'::regtype,
                  'uuid'::regtype, 'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype,
                  'text[]'::regtype, 'int4[]'::regtype, 'int8[]'::regtype)
                  AND coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = attcollation), true)
                  ORDER BY attname::text COLLATE "C") AS exact
         FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a ON true
 WHERE c.relkind = 'r'
   AND c.relpersistence <> 't'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
 ORDER BY bytes DESC, schema, name
