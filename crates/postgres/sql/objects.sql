-- All objects that users created, in an order in which they can be dropped.
-- Not included: extensions and their objects, objects that are dropped with another one, and the schema public itself.
WITH ns AS (
    SELECT oid, nspname FROM pg_namespace
     WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
), part AS (
    SELECT classid, objid FROM pg_depend WHERE deptype IN ('e', 'i') AND objsubid = 0
), object AS (
    SELECT 1 AS step, 'schema' AS kind, format('%I', nspname) AS name, nspowner AS owner,
           'pg_namespace'::regclass::oid AS classid, oid
      FROM pg_namespace WHERE oid IN (SELECT oid FROM ns) AND nspname <> 'public'
    UNION ALL
    SELECT CASE relkind WHEN 'v' THEN 2 WHEN 'm' THEN 3 WHEN 'f' THEN 4 WHEN 'S' THEN 6 ELSE 5 END,
           CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                        WHEN 'S' THEN 'sequence' ELSE 'table' END,
           format('%I.%I', ns.nspname, relname), relowner, 'pg_class'::regclass, c.oid
      FROM pg_class c JOIN ns ON ns.oid = relnamespace
     WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
    UNION ALL
    SELECT 7, CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
           p.oid::regprocedure::text, proowner, 'pg_proc'::regclass, p.oid
      FROM pg_proc p JOIN ns ON ns.oid = pronamespace
    UNION ALL
    SELECT 8, 'operator class', format('%I.%I USING %I', ns.nspname, opcname, amname), opcowner, 'pg_opclass'::regclass, o.oid
      FROM pg_opclass o JOIN ns ON ns.oid = opcnamespace JOIN pg_am m ON m.oid = opcmethod
    UNION ALL
    SELECT 9, 'operator family', format('%I.%I USING %I', ns.nspname, opfname, amname), opfowner, 'pg_opfamily'::regclass, o.oid
      FROM pg_opfamily o JOIN ns ON ns.oid = opfnamespace JOIN pg_am m ON m.oid = opfmethod
    UNION ALL
    SELECT 10, 'operator', o.oid::regoperator::text, oprowner, 'pg_operator'::regclass, o.oid
      FROM pg_operator o JOIN ns ON ns.oid = oprnamespace
    UNION ALL
    SELECT 11, CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END, t.oid::regtype::text, typowner, 'pg_type'::regclass, t.oid
      FROM pg_type t JOIN ns ON ns.oid = typnamespace
     WHERE (typtype IN ('e', 'd', 'r', 'b') AND NOT (typtype = 'b' AND typelem <> 0 AND typlen = -1))
        OR (typtype = 'c' AND EXISTS (SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c'))
    UNION ALL
    SELECT 12, 'text search configuration', format('%I.%I', ns.nspname, cfgname), cfgowner, 'pg_ts_config'::regclass, t.oid
      FROM pg_ts_config t JOIN ns ON ns.oid = cfgnamespace
    UNION ALL
    SELECT 13, 'text search dictionary', format('%I.%I', ns.nspname, dictname), dictowner, 'pg_ts_dict'::regclass, t.oid
      FROM pg_ts_dict t JOIN ns ON ns.oid = dictnamespace
    UNION ALL
    SELECT 14, 'collation', format('%I.%I', ns.nspname, collname), collowner, 'pg_collation'::regclass, c.oid
      FROM pg_collation c JOIN ns ON ns.oid = collnamespace
    UNION ALL
    SELECT 15, 'conversion', format('%I.%I', ns.nspname, conname), conowner, 'pg_conversion'::regclass, c.oid
      FROM pg_conversion c JOIN ns ON ns.oid = connamespace
    UNION ALL
    SELECT 16, 'publication', format('%I', pubname), pubowner, 'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL
    SELECT 17, 'event trigger', format('%I', evtname), evtowner, 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
    UNION ALL
    SELECT 18, 'large object', oid::text, lomowner, 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata
)
SELECT kind, name, pg_get_userbyid(owner)::text AS owner, pg_has_role(owner, 'USAGE') AS ours
  FROM object
 WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = object.classid AND p.objid = object.oid)
 ORDER BY step, name COLLATE "C"
