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
SELECT 'index', x.relname::text, format('%I.%I', n.nspname, c.relname), format('ONLY %I.%I', n.nspname, c.relname), 'ROW(' || e.text || ')', false
  FROM pg_index i JOIN pg_class x ON x.oid = indexrelid JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (VALUES (pg_get_expr(indexprs, indrelid)), (pg_get_expr(indpred, indrelid))) AS e(text)
 WHERE e.text IS NOT NULL AND i.indisvalid AND c.relkind = 'r'
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
-- A cast to a domain checks its constraints (CoerceToDomain); a column that has the domain's type already is not cast.
SELECT 'domain', a.attname::text, format('%I.%I', n.nspname, c.relname), format('ONLY %I.%I', n.nspname, c.relname),
       format('%I::%s::%s', a.attname, format_type(t.typbasetype, t.typtypmod), format_type(t.oid, NULL)), false
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.typtype = 'd' AND NOT a.attisdropped AND c.relkind = 'r'
   AND EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c' AND k.convalidated)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
-- A value of a column with storage EXTERNAL or PLAIN is loaded uncompressed, and so becomes part of a key, which can
-- have a third of a page (BTMaxItemSize in nbtree.h), 12 bytes of it headers. 17 bytea, 25 text, 1043 varchar.
SELECT 'index key', format('%I.%I', n.nspname, x.relname), format('%I.%I', n.nspname, c.relname),
       format('ONLY %I.%I', n.nspname, c.relname),
       format('%s <= 2692', string_agg(format('coalesce(octet_length(%I), 0)', a.attname), ' + ')), true
  FROM pg_index i JOIN pg_class x ON x.oid = indexrelid JOIN pg_am m ON m.oid = x.relam JOIN pg_class c ON c.oid = indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = ANY (indkey)
 WHERE m.amname = 'btree' AND i.indisvalid AND c.relkind = 'r' AND a.attstorage IN ('e', 'p') AND a.atttypid IN (17, 25, 1043)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
 GROUP BY n.nspname, x.relname, c.relname
UNION ALL
SELECT 'materialized view', c.relname::text, format('%I.%I', n.nspname, c.relname),
       '(' || rtrim(pg_get_viewdef(c.oid), ';') || ') AS row_of_it', 'row_of_it', false
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite w ON w.ev_class = c.oid
 WHERE c.relkind = 'm' AND c.relispopulated AND EXISTS (SELECT FROM own WHERE classid = 'pg_rewrite'::regclass AND objid = w.oid)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
 ORDER BY 3, 1, 2
