-- Relations, functions, types, schemas other than public and large objects that are not owned by role $1.
WITH ours AS (
    SELECT oid FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
), part AS (
    -- Objects that belong to an extension or to another object, like the constructors of a range type.
    SELECT classid, objid FROM pg_depend WHERE deptype IN ('e', 'i') AND objsubid = 0
)
SELECT format('%s %s (%s)', kind, name, pg_get_userbyid(owner))
  FROM (
    SELECT CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind,
           oid::regclass::text AS name, relowner AS owner, 'pg_class'::regclass::oid AS classid, oid
      FROM pg_class WHERE relnamespace IN (SELECT oid FROM ours) AND relkind IN ('r', 'p', 'S', 'v', 'm', 'f')
    UNION ALL
    SELECT 'function', oid::regprocedure::text, proowner, 'pg_proc'::regclass, oid
      FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)
    UNION ALL
    SELECT 'type', oid::regtype::text, typowner, 'pg_type'::regclass, oid
      FROM pg_type WHERE typnamespace IN (SELECT oid FROM ours) AND typtype IN ('e', 'd', 'r')
    UNION ALL
    SELECT 'schema', nspname, nspowner, 'pg_namespace'::regclass, oid
      FROM pg_namespace WHERE oid IN (SELECT oid FROM ours) AND nspname <> 'public'
    UNION ALL
    SELECT 'large object', oid::text, lomowner, 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata
  ) o
 WHERE pg_get_userbyid(owner) <> $1
   AND NOT EXISTS (SELECT FROM part p WHERE p.classid = o.classid AND p.objid = o.oid)
 ORDER BY 1
