-- Expressions that a restore evaluates for each row, with an empty search_path. must_hold: the result has to be true or
-- null; otherwise it is enough that there is one.
WITH own AS (
    SELECT d.classid, d.objid, d.objsubid
      FROM pg_depend d
     WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid >= 16384
)
SELECT 'check constraint' AS kind, k.conname::text AS name, format('%I.%I', n.nspname, c.relname) AS "table",
       format('ONLY %I.%I', n.nspname, c.relname) AS rows, pg_get_expr(k.conbin, k.conrelid) AS expression, true AS must_hold
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'c' AND k.convalidated AND c.relkind = 'r'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
-- PostgreSQL evaluates the predicate first.
SELECT 'index', x.relname::text, format('%I.%I', n.nspname, c.relname), format('ONLY %I.%I', n.nspname, c.relname),
       format('CASE WHEN %s THEN ROW(%s) END', coalesce(pg_get_expr(indpred, indrelid), 'true'),
              coalesce(pg_get_expr(indexprs, indrelid), '')), false
  FROM pg_index i JOIN pg_class x ON x.oid = indexrelid JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (indexprs IS NOT NULL OR indpred IS NOT NULL) AND i.indisvalid AND c.relkind = 'r'
   AND EXISTS (SELECT FROM own WHERE classid = 'pg_class'::regclass AND objid = indexrelid)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
SELECT 'generated column', a.attname::text, format('%I.%I', n.nspname, c.relname), format('ONLY %I.%I', n.nspname, c.relname),
       pg_get_expr(adbin, adrelid), false
  FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum JOIN pg_class c ON c.oid = adrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attgenerated = 's' AND c.relkind = 'r'
   AND EXISTS (SELECT FROM own WHERE classid = 'pg_attrdef'::regclass AND objid = f.oid
               UNION ALL SELECT FROM own WHERE classid = 'pg_class'::regclass AND objid = adrelid AND objsubid = adnum)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
-- The constraints of a domain refer to the value as VALUE.
SELECT 'domain', a.attname::text, format('%I.%I', n.nspname, c.relname),
       format('(SELECT %I::%s AS value FROM ONLY %I.%I) AS v', a.attname, format_type(t.typbasetype, t.typtypmod), n.nspname, c.relname),
       pg_get_expr(k.conbin, 0), true
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_constraint k ON k.contypid = t.oid
 WHERE t.typtype = 'd' AND k.contype = 'c' AND k.convalidated AND NOT a.attisdropped AND c.relkind = 'r'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
-- A value of a column with storage EXTERNAL or PLAIN is loaded uncompressed, and so becomes part of a key, which can
-- have a third of a page (BTMaxItemSize in nbtree.h), 12 bytes of it headers. 17 bytea, 25 text, 1043 varchar.
SELECT 'index key', format('%I.%I', n.nspname, x.relname), format('%I.%I', n.nspname, c.relname),
       format('ONLY %I.%I', n.nspname, c.relname),
       coalesce('(' || pg_get_expr(i.indpred, i.indrelid) || ') IS NOT TRUE OR ', '')
           || format('%s <= 2692', string_agg(format('coalesce(octet_length(%I), 0)', a.attname), ' + ')), true
  FROM pg_index i JOIN pg_class x ON x.oid = indexrelid JOIN pg_am m ON m.oid = x.relam JOIN pg_class c ON c.oid = indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = ANY (indkey)
 WHERE m.amname = 'btree' AND i.indisvalid AND c.relkind = 'r' AND a.attstorage IN ('e', 'p') AND a.atttypid IN (17, 25, 1043)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
 GROUP BY n.nspname, x.relname, c.relname, pg_get_expr(i.indpred, i.indrelid)
UNION ALL
SELECT 'materialized view', c.relname::text, format('%I.%I', n.nspname, c.relname),
       -- A hundred rows show whether the functions can be called, without the time that a refresh takes.
       '(SELECT * FROM (' || rtrim(pg_get_viewdef(c.oid), ';') || ') AS v LIMIT 100) AS row_of_it', 'row_of_it', false
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite w ON w.ev_class = c.oid
 WHERE c.relkind = 'm' AND c.relispopulated AND EXISTS (SELECT FROM own WHERE classid = 'pg_rewrite'::regclass AND objid = w.oid)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
 ORDER BY 3, 1, 2
