-- Expressions that a restore evaluates for each row, with an empty search_path: validated check constraints, and
-- indexes and generated columns that call user-defined functions. must_hold: the result has to be true or null.
WITH own AS (
    SELECT d.classid, d.objid, d.objsubid
      FROM pg_depend d
     WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid >= 16384
)
SELECT 'check constraint' AS kind, k.conname::text AS name, format('%I.%I', n.nspname, c.relname) AS "table",
       pg_get_expr(k.conbin, k.conrelid) AS expression, true AS must_hold
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'c' AND k.convalidated AND c.relkind = 'r'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
SELECT 'index', x.relname::text, format('%I.%I', n.nspname, c.relname), 'ROW(' || e.text || ')', false
  FROM pg_index i JOIN pg_class x ON x.oid = indexrelid JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (VALUES (pg_get_expr(indexprs, indrelid)), (pg_get_expr(indpred, indrelid))) AS e(text)
 WHERE e.text IS NOT NULL AND i.indisvalid AND c.relkind = 'r'
   AND EXISTS (SELECT FROM own WHERE classid = 'pg_class'::regclass AND objid = indexrelid)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
UNION ALL
SELECT 'generated column', a.attname::text, format('%I.%I', n.nspname, c.relname), pg_get_expr(adbin, adrelid), false
  FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum JOIN pg_class c ON c.oid = adrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attgenerated = 's' AND c.relkind = 'r'
   AND EXISTS (SELECT FROM own WHERE classid = 'pg_attrdef'::regclass AND objid = f.oid
               UNION ALL SELECT FROM own WHERE classid = 'pg_class'::regclass AND objid = adrelid AND objsubid = adnum)
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND is_readable(c)
 ORDER BY 3, 1, 2
