-- Every ordinary table with its columns, largest first.
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       c.relpersistence = 'u' AS unlogged,
       pg_total_relation_size(c.oid) AS bytes,
       coalesce(a.columns, '{}') AS columns,
       coalesce(a.kinds, '{}') AS kinds,
       coalesce(a.nullable, '{}') AS nullable
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
       SELECT array_agg(attname::text ORDER BY attname::text COLLATE "C") AS columns,
              array_agg(CASE WHEN atttypid = 'bool'::regtype THEN 'boolean'
                             WHEN atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype)
                                  THEN 'integer'
                             ELSE 'other' END
                        ORDER BY attname::text COLLATE "C") AS kinds,
              -- Since PostgreSQL 18, attnotnull is also true if the NOT NULL constraint was never validated.
              array_agg(NOT attnotnull OR EXISTS (
                            SELECT FROM pg_constraint
                             WHERE conrelid = attrelid AND contype = 'n' AND NOT convalidated AND attnum = ANY (conkey))
                        ORDER BY attname::text COLLATE "C") AS nullable
         FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a ON true
 WHERE c.relkind = 'r'
   AND c.relpersistence <> 't'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
 ORDER BY bytes DESC, schema, name
