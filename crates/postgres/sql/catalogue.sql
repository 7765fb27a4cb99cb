-- Everything in the database but its rows, one comparable line each.
-- search_path is empty, so every name that PostgreSQL prints is qualified.
WITH RECURSIVE ns AS (
    SELECT oid, nspname FROM pg_namespace
     WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = pg_namespace.oid AND deptype = 'e')
), rel AS (
    SELECT c.*, format('%I.%I', ns.nspname, c.relname) AS fullname
      FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
     WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
), piece AS (
    -- Of large objects, which can be larger than a value.
    SELECT m.oid, 0::int8 AS place, length(d) AS bytes, encode(sha256(d), 'hex') AS hash
      FROM pg_largeobject_metadata m CROSS JOIN LATERAL lo_get(m.oid, 0, 1 << 20) AS d
    UNION ALL
    SELECT p.oid, p.place + (1 << 20), length(d), encode(sha256(d), 'hex')
      FROM piece p CROSS JOIN LATERAL lo_get(p.oid, p.place + (1 << 20), 1 << 20) AS d WHERE p.bytes = 1 << 20
), line AS (
    SELECT format('schema %I', nspname) AS line FROM ns WHERE nspname <> 'public'
    UNION ALL
    SELECT format('relation %s kind %s persistence %s rls %s%s replica %s options %s',
                  fullname, relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
                  coalesce(array_to_string(reloptions, ','), ''))
      FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
    UNION ALL
    -- Not %I: which names need quotes is another question in each version.
    SELECT format('column %s.%s %s%s%s%s%s%s', fullname, attname, format_type(atttypid, atttypmod),
                  CASE WHEN attnotnull THEN ' not null' END,
                  CASE WHEN attidentity <> '' THEN ' identity ' || attidentity::text END,
                  CASE WHEN attgenerated <> '' THEN ' generated ' || attgenerated::text END,
                  (SELECT ' default ' || pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum),
                  (SELECT ' collate ' || format('%I', collname) FROM pg_collation k, pg_type t
                    WHERE k.oid = attcollation AND t.oid = atttypid AND attcollation <> t.typcollation))
      FROM rel JOIN pg_attribute ON attrelid = rel.oid
     WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND attnum > 0 AND NOT attisdropped
    UNION ALL
    -- NOT NULL became a constraint with a name in PostgreSQL 18; the column says it already.
    SELECT format('constraint %s %I %s', fullname, conname, pg_get_constraintdef(k.oid))
      FROM rel JOIN pg_constraint k ON conrelid = rel.oid WHERE contype <> 'n' AND contype <> 't'
    UNION ALL
    -- pg_dump leaves an invalid index behind.
    SELECT format('index %s%s', pg_get_indexdef(indexrelid), CASE WHEN indisclustered THEN ' clustered' END)
      FROM rel JOIN pg_index ON indrelid = rel.oid WHERE indisvalid AND relkind IN ('r', 'p', 'm')
    UNION ALL
    SELECT format('trigger %s enabled %s', pg_get_triggerdef(t.oid), tgenabled)
      FROM rel JOIN pg_trigger t ON tgrelid = rel.oid WHERE NOT tgisinternal
    UNION ALL
    SELECT format('rule %s %s', ev_enabled, pg_get_ruledef(w.oid))
      FROM rel JOIN pg_rewrite w ON ev_class = rel.oid WHERE rulename <> '_RETURN'
    UNION ALL
    SELECT format('policy %s %I %s %s %s %s', fullname, polname, polcmd, polpermissive,
                  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
      FROM rel JOIN pg_policy ON polrelid = rel.oid
    UNION ALL
    SELECT format('view %s %s', fullname, pg_get_viewdef(oid)) FROM rel WHERE relkind IN ('v', 'm')
    UNION ALL
    SELECT format('partition %s key %s bound %s', fullname,
                  CASE WHEN relkind = 'p' THEN pg_get_partkeydef(oid) END, pg_get_expr(relpartbound, oid))
      FROM rel WHERE relkind = 'p' OR relispartition
    UNION ALL
    SELECT format('inherits %s %s', fullname, inhparent::regclass) FROM rel JOIN pg_inherits ON inhrelid = rel.oid
    UNION ALL
    SELECT format('sequence %s %s start %s increment %s min %s max %s cache %s cycle %s owned by %s', fullname,
                  format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle,
                  (SELECT d.refobjid::regclass::text || '.' || a.attname::text FROM pg_depend d
                     JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = rel.oid AND d.deptype IN ('a', 'i')
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0))
      FROM rel JOIN pg_sequence ON seqrelid = rel.oid
    UNION ALL
    SELECT format('statistics %s', pg_get_statisticsobjdef(s.oid))
      FROM pg_statistic_ext s JOIN ns ON ns.oid = s.stxnamespace
    UNION ALL
    SELECT CASE WHEN prokind IN ('f', 'p') THEN 'function ' || pg_get_functiondef(p.oid)
                ELSE format('aggregate %s', p.oid::regprocedure) END
      FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
     WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
    UNION ALL
    SELECT format('type %I.%I %s %s %s %s', ns.nspname, typname, typtype,
                  (SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
                  CASE WHEN typtype = 'd' THEN format_type(typbasetype, typtypmod) || coalesce(' default ' || typdefault, '')
                            || CASE WHEN typnotnull THEN ' not null' ELSE '' END END,
                  (SELECT string_agg(conname::text || ' ' || pg_get_constraintdef(oid), ',' ORDER BY conname)
                     FROM pg_constraint WHERE contypid = t.oid AND contype <> 'n'))
      FROM pg_type t JOIN ns ON ns.oid = t.typnamespace
     WHERE typtype IN ('e', 'd', 'r')
       AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'e')
    UNION ALL
    SELECT format('large objects %s contents %s', count(DISTINCT oid),
                  sum(hashtextextended(format('%s %s %s', oid, place, hash), 0)))
      FROM piece HAVING count(*) > 0
)
SELECT line FROM line
