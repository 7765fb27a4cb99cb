-- What our dumps do not contain, named as in pg_restore --list; "erased" if a wipe erases it.
WITH ns AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
     WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
), part AS (
    -- Objects that belong to an extension or to another object.
    SELECT classid, objid FROM pg_depend WHERE deptype IN ('e', 'i') AND objsubid = 0
), acl AS (
    -- Privileges, and the default privileges of each kind of object.
    SELECT 'pg_class'::regclass AS classid, c.oid, relname::text AS name, relowner AS owner, relacl AS acl,
           acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner) AS usual, true AS erased,
           CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind
      FROM pg_class c WHERE relnamespace IN (SELECT oid FROM ns) AND relacl IS NOT NULL
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, relname || '.' || attname, relowner, attacl, acldefault('c', relowner), true, 'column'
      FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
     WHERE relnamespace IN (SELECT oid FROM ns) AND attacl IS NOT NULL AND NOT attisdropped
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, proname::text, proowner, proacl, acldefault('f', proowner), true, 'function'
      FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ns) AND proacl IS NOT NULL
    UNION ALL
    SELECT 'pg_type'::regclass, oid, typname::text, typowner, typacl, acldefault('T', typowner), true, 'type'
      FROM pg_type WHERE typnamespace IN (SELECT oid FROM ns) AND typacl IS NOT NULL
    UNION ALL
    SELECT 'pg_largeobject'::regclass, oid, oid::text, lomowner, lomacl, acldefault('L', lomowner), true, 'large object'
      FROM pg_largeobject_metadata WHERE lomacl IS NOT NULL
    UNION ALL
    SELECT 'pg_namespace'::regclass, oid, nspname::text, nspowner, nspacl, acldefault('n', nspowner), nspname <> 'public', 'schema'
      FROM ns WHERE nspacl IS NOT NULL AND nspname <> 'public'
    UNION ALL
    SELECT 'pg_database'::regclass, oid, datname::text, datdba, datacl, acldefault('d', datdba), false, 'database'
      FROM pg_database WHERE datname = current_database() AND datacl IS NOT NULL
), given AS (
    SELECT acl.*, x.grantee, is_granted
      FROM acl CROSS JOIN LATERAL (
           (SELECT grantee, privilege_type, is_grantable, true AS is_granted FROM aclexplode(acl)
            EXCEPT SELECT grantee, privilege_type, is_grantable, true FROM aclexplode(usual))
           UNION ALL
           (SELECT grantee, privilege_type, is_grantable, false FROM aclexplode(usual)
            EXCEPT SELECT grantee, privilege_type, is_grantable, false FROM aclexplode(acl))) x
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = acl.classid AND p.objid = acl.oid)
), entry AS (
    SELECT 'EXTENSION - ' || extname AS entry, 'the target has its own extensions' AS reason, false AS erased
      FROM pg_extension WHERE extname <> 'plpgsql'
    UNION ALL
    SELECT format('PUBLICATION - %s %s', pubname, pg_get_userbyid(pubowner)), 'replication has to be set up again', true
      FROM pg_publication
    UNION ALL
    SELECT format('SUBSCRIPTION - %s %s', subname, pg_get_userbyid(subowner)), 'replication has to be set up again', false
      FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT format('EVENT TRIGGER - %s %s', evtname, pg_get_userbyid(evtowner)), 'event triggers need a superuser', true
      FROM pg_event_trigger e
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_event_trigger'::regclass AND p.objid = e.oid)
    UNION ALL
    SELECT format('FOREIGN TABLE %s %s %s', nspname, relname, pg_get_userbyid(relowner)), 'foreign data is not carried', true
      FROM pg_class c JOIN ns ON ns.oid = relnamespace
     WHERE relkind = 'f' AND NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_class'::regclass AND p.objid = c.oid)
    UNION ALL
    SELECT format('FOREIGN DATA WRAPPER - %s %s', fdwname, pg_get_userbyid(fdwowner)), 'foreign data is not carried', false
      FROM pg_foreign_data_wrapper f
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_foreign_data_wrapper'::regclass AND p.objid = f.oid)
    UNION ALL
    SELECT format('SERVER - %s %s', srvname, pg_get_userbyid(srvowner)), 'foreign data is not carried', false
      FROM pg_foreign_server s
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_foreign_server'::regclass AND p.objid = s.oid)
    UNION ALL
    SELECT format('USER MAPPING - USER MAPPING %s SERVER %s', usename, srvname), 'foreign data is not carried', false
      FROM pg_user_mappings
    UNION ALL
    SELECT format('PROCEDURAL LANGUAGE - %s %s', lanname, pg_get_userbyid(lanowner)), 'languages need a superuser', false
      FROM pg_language l
     WHERE lanispl AND NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_language'::regclass AND p.objid = l.oid)
    UNION ALL
    SELECT format('TEXT SEARCH PARSER %s %s', nspname, prsname), 'text search parsers need a superuser', false
      FROM pg_ts_parser t JOIN ns ON ns.oid = prsnamespace
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_ts_parser'::regclass AND p.objid = t.oid)
    UNION ALL
    SELECT format('TEXT SEARCH TEMPLATE %s %s', nspname, tmplname), 'text search templates need a superuser', false
      FROM pg_ts_template t JOIN ns ON ns.oid = tmplnamespace
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_ts_template'::regclass AND p.objid = t.oid)
    UNION ALL
    SELECT format('ACCESS METHOD - %s', amname), 'access methods need a superuser', false
      FROM pg_am a
     WHERE oid >= 16384 AND NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_am'::regclass AND p.objid = a.oid)
    UNION ALL
    SELECT format('TRANSFORM - FOR %s LANGUAGE %s', format_type(trftype, NULL), lanname), 'languages need a superuser', false
      FROM pg_transform t JOIN pg_language l ON l.oid = trflang
     WHERE NOT EXISTS (SELECT FROM part p WHERE p.classid = 'pg_transform'::regclass AND p.objid = t.oid)
    UNION ALL
    -- One line for each role and kind, because there can be thousands of grants.
    SELECT format('ACL %s %s, %s %s%s', CASE WHEN is_granted THEN 'granted to' ELSE 'revoked from' END,
                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, kind,
                  array_to_string((array_agg(DISTINCT name ORDER BY name))[:3], ', '),
                  CASE WHEN count(DISTINCT oid) > 3 THEN format(' and %s more', count(DISTINCT oid) - 3) END),
           'privileges are not carried', bool_and(erased)
      FROM given GROUP BY is_granted, grantee, kind
    UNION ALL
    SELECT format('DEFAULT ACL %s %s on %s of %s', coalesce(nspname, '-'),
                  (SELECT string_agg(DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, ', ') FROM aclexplode(defaclacl)),
                  CASE defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'type'
                                     WHEN 'n' THEN 'schemas' ELSE 'large objects' END, pg_get_userbyid(defaclrole)),
           'privileges are not carried', coalesce(nspname <> 'public', false)
      FROM pg_default_acl LEFT JOIN ns ON ns.oid = defaclnamespace
    UNION ALL
    SELECT format('SECURITY LABEL of provider %s (%s)', provider, count(*)), 'security labels are not carried', true
      FROM pg_seclabel GROUP BY provider
    UNION ALL
    -- Without the values, which may be secret.
    SELECT format('ALTER %s SET %s', CASE setrole WHEN 0 THEN 'DATABASE' ELSE 'ROLE ' || pg_get_userbyid(setrole) || ' IN DATABASE' END,
                  split_part(setting, '=', 1)), 'settings of the database are not carried', false
      FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS setting
     WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT format('TABLESPACE - %s (%s)', spcname, count(*)), 'tablespaces are not carried', true
      FROM pg_class c JOIN pg_tablespace s ON s.oid = reltablespace
     WHERE relnamespace IN (SELECT oid FROM ns)
     GROUP BY spcname
    UNION ALL
    SELECT format('COMMENT - DATABASE %s', current_database()), 'the target database already exists', false
      FROM pg_shdescription WHERE classoid = 'pg_database'::regclass AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT format('INDEX %s %s %s', n.nspname, c.relname, pg_get_userbyid(c.relowner)), 'its build failed', true
      FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN ns n ON n.oid = c.relnamespace
     WHERE NOT (indisvalid AND indisready)
       -- The index of a partitioned table is invalid until each partition has it, but is dumped even so.
       AND c.relkind = 'i'
)
SELECT entry, reason, erased FROM entry ORDER BY entry COLLATE "C"
