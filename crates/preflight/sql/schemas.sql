-- Schemas but the one that every database has, without those of extensions.
SELECT nspname::text
  FROM pg_namespace n
 WHERE nspname NOT LIKE 'pg\_%' AND nspname NOT IN ('information_schema', 'public')
   AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = n.oid AND deptype = 'e')
 ORDER BY 1
