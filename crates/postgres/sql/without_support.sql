-- Objects that our dumps contain although they need an object that our dumps do not contain, with that object.
WITH RECURSIVE part AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), left_out AS (
    SELECT * FROM (
        SELECT 'pg_class'::regclass::oid AS classid, oid AS objid FROM pg_class WHERE relkind = 'f'
        UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
        UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
        UNION ALL SELECT 'pg_user_mapping'::regclass, umid FROM pg_user_mappings
        UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language WHERE oid >= 16384
        UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser WHERE oid >= 16384
        UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template WHERE oid >= 16384
        UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
        UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
    ) all_of_them WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = all_of_them.classid AND p.objid = all_of_them.objid)
), whole AS (
    SELECT classid, objid, classid AS of_class, objid AS of_object FROM left_out
    UNION
    -- With the objects that belong to them.
    SELECT d.classid, d.objid, w.of_class, w.of_object
      FROM whole w JOIN pg_depend d ON d.refclassid = w.classid AND d.refobjid = w.objid AND d.deptype IN ('i', 'a')
)
SELECT DISTINCT format('%s needs %s', pg_describe_object(d.classid, d.objid, 0), pg_describe_object(w.of_class, w.of_object, 0))
  FROM whole w
  JOIN pg_depend d ON d.refclassid = w.classid AND d.refobjid = w.objid AND d.deptype = 'n'
 WHERE NOT EXISTS (SELECT FROM whole o WHERE o.classid = d.classid AND o.objid = d.objid)
   AND NOT EXISTS (SELECT FROM part p WHERE p.classid = d.classid AND p.objid = d.objid)
 ORDER BY 1
