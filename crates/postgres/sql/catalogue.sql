-- Everything in the database except its rows, as lines that can be compared.
-- search_path is empty, so every name that PostgreSQL prints is qualified.
-- Not included: the contents of large objects (large_objects.sql), and what dumps do not contain (not_in_a_dump.sql).
WITH RECURSIVE part AS (
    -- Objects that belong to an extension, or to another object: the constructors of a range type and what newer
    -- versions create with it belong to the type.
    SELECT classid, objid, deptype FROM pg_depend WHERE deptype IN ('e', 'i') AND objsubid = 0
), ns AS (
    SELECT oid, nspname FROM pg_namespace
     WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_namespace'::regclass AND objid = pg_namespace.oid)
), rel AS (
    SELECT c.*, format('%I.%I', ns.nspname, c.relname) AS fullname
      FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
     WHERE relkind <> 'f'
       AND NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_class'::regclass AND objid = c.oid)
), older AS (
    -- Before PostgreSQL 14, pg_attribute lacks this column. In a subquery, the name then refers to this one.
    SELECT ''::"char" AS attcompression
), extensions AS (
    -- An extension's objects, and the objects that belong to these, such as the rule of a view.
    SELECT classid, objid, refobjid AS extension FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
    UNION
    SELECT d.classid, d.objid, e.extension
      FROM extensions e JOIN pg_depend d ON d.refclassid = e.classid AND d.refobjid = e.objid AND d.deptype IN ('i', 'a')
), line AS (
    SELECT format('schema %I', nspname) AS line FROM ns WHERE nspname <> 'public'
    UNION ALL
    SELECT format('relation %s kind %s persistence %s rls %s%s replica %s options %s%s%s%s', fullname,
                  relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
                  coalesce(array_to_string(reloptions, ','), ''),
                  (SELECT ' toast ' || array_to_string(t.reloptions, ',') FROM pg_class t WHERE t.oid = rel.reltoastrelid),
                  CASE WHEN reloftype <> 0 THEN ' of ' || reloftype::regtype END,
                  CASE WHEN NOT relispopulated THEN ' not populated' END)
      FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'c')
    UNION ALL
    -- Not %I, because which names are quoted depends on the version.
    SELECT format('column %s.%s %s%s%s%s%s%s%s%s%s%s', fullname, attname, format_type(atttypid, atttypmod),
                  CASE WHEN attnotnull THEN ' not null' END,
                  CASE WHEN attidentity <> '' THEN ' identity ' || attidentity::text END,
                  CASE WHEN attgenerated <> '' THEN ' generated ' || attgenerated::text END,
                  (SELECT ' default ' || pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum),
                  CASE WHEN attcollation <> t.typcollation
                       THEN (SELECT ' collate ' || format('%I', collname) FROM pg_collation k WHERE k.oid = attcollation) END,
                  CASE WHEN attstorage <> typstorage AND relkind IN ('r', 'p') THEN ' storage ' || attstorage::text END,
                  -- Empty if it is the server's default.
                  CASE WHEN relkind IN ('r', 'p') AND attlen = -1 THEN ' compression ' || nullif(
                      (SELECT attcompression FROM pg_attribute n WHERE n.attrelid = a.attrelid AND n.attnum = a.attnum)::text, '') END,
                  -- NULL or negative if it is the default.
                  CASE WHEN attstattarget >= 0 THEN format(' statistics %s', attstattarget) END,
                  -- Newer minor versions (15.20) record in pg_attver where in the WAL a column was created or changed.
                  ' options ' || nullif(array_to_string(
                      ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg\_attver=%'), ','), ''))
      FROM rel JOIN pg_attribute a ON attrelid = rel.oid JOIN pg_type t ON t.oid = atttypid CROSS JOIN older
     WHERE relkind IN ('r', 'p', 'v', 'm', 'c') AND attnum > 0 AND NOT attisdropped
    UNION ALL
    -- Since PostgreSQL 18, NOT NULL is a constraint with a name; the line of the column already contains it.
    SELECT format('constraint %s %I %s', fullname, conname, pg_get_constraintdef(k.oid))
      FROM rel JOIN pg_constraint k ON conrelid = rel.oid
     -- The names of the copies of a foreign key on partitions depend on the version.
     WHERE contype <> 'n' AND contype <> 't' AND NOT (contype = 'f' AND conparentid <> 0)
    UNION ALL
    -- pg_dump omits invalid indexes.
    SELECT format('index %s%s%s%s', pg_get_indexdef(indexrelid), CASE WHEN indisclustered THEN ' clustered' END,
                  CASE WHEN indisreplident THEN ' replica identity' END,
                  CASE WHEN indexprs IS NOT NULL
                       THEN (SELECT ' statistics ' || string_agg(format('%s=%s', attnum, attstattarget), ',' ORDER BY attnum)
                               FROM pg_attribute WHERE attrelid = indexrelid AND attstattarget >= 0) END)
      FROM rel JOIN pg_index ON indrelid = rel.oid WHERE indisvalid AND relkind IN ('r', 'p', 'm')
    UNION ALL
    -- A trigger of a partitioned table stands for its copies on partitions, except for copies that are enabled
    -- differently. Whether copies count as internal depends on the version.
    SELECT format('trigger %s enabled %s', pg_get_triggerdef(t.oid), t.tgenabled)
      FROM rel JOIN (SELECT *, (to_jsonb(g) ->> 'tgparentid')::oid AS parent FROM pg_trigger g) t ON tgrelid = rel.oid
      LEFT JOIN pg_trigger p ON p.oid = t.parent
     WHERE CASE WHEN p.oid IS NULL THEN NOT t.tgisinternal ELSE NOT p.tgisinternal AND t.tgenabled <> p.tgenabled END
    UNION ALL
    SELECT format('rule %s %s', ev_enabled, pg_get_ruledef(w.oid))
      FROM rel JOIN pg_rewrite w ON ev_class = rel.oid WHERE rulename <> '_RETURN'
    UNION ALL
    SELECT format('policy %s %I %s %s to %s %s %s', fullname, polname, polcmd, polpermissive,
                  (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r)::text END, ',' ORDER BY pg_get_userbyid(r)::text)
                     FROM unnest(polroles) AS r),
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
    SELECT format('statistics %s%s', pg_get_statisticsobjdef(s.oid),
                  (SELECT ' target ' || target FROM (SELECT to_jsonb(s) ->> 'stxstattarget') AS x(target) WHERE target::int4 >= 0))
      FROM pg_statistic_ext s JOIN ns ON ns.oid = s.stxnamespace
    UNION ALL
    SELECT CASE WHEN prokind <> 'a' THEN 'function ' || pg_get_functiondef(p.oid)
                ELSE format('aggregate %s %s', p.oid::regprocedure, (
                     SELECT concat_ws(' ', aggkind, aggnumdirectargs, aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn,
                                      aggmtransfn, aggminvtransfn, aggmfinalfn, aggfinalextra, aggmfinalextra, aggfinalmodify,
                                      aggmfinalmodify, aggsortop::regoperator, aggtranstype::regtype, aggtransspace,
                                      aggmtranstype::regtype, aggmtransspace, 'initial ' || agginitval, 'moving ' || aggminitval,
                                      proparallel)
                       FROM pg_aggregate WHERE aggfnoid = p.oid)) END
      FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
     WHERE NOT EXISTS (SELECT FROM part WHERE classid = 'pg_proc'::regclass AND objid = p.oid)
    UNION ALL
    SELECT format('type %I.%I %s %s %s %s %s', ns.nspname, typname, typtype,
                  (SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
                  CASE WHEN typtype = 'd' THEN format_type(typbasetype, typtypmod) || coalesce(' default ' || typdefault, '')
                            || CASE WHEN typnotnull THEN ' not null' ELSE '' END END,
                  (SELECT string_agg(conname::text || ' ' || pg_get_constraintdef(oid), ',' ORDER BY conname)
                     FROM pg_constraint WHERE contypid = t.oid AND contype <> 'n'),
                  (SELECT concat_ws(' ', rngsubtype::regtype, nullif(rngcanonical::oid, 0)::regproc, nullif(rngsubdiff::oid, 0)::regproc,
                                    (SELECT opcname FROM pg_opclass o WHERE o.oid = rngsubopc AND NOT opcdefault),
                                    (SELECT format('%I', collname) FROM pg_collation k WHERE k.oid = rngcollation))
                     FROM pg_range WHERE rngtypid = t.oid))
      FROM pg_type t JOIN ns ON ns.oid = t.typnamespace
     WHERE typtype IN ('e', 'd', 'r')
       AND NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_type'::regclass AND objid = t.oid)
    UNION ALL
    SELECT format('operator %s %s %s %s %s %s %s%s', o.oid::regoperator, oprcode, nullif(oprcom, 0)::regoperator,
                  nullif(oprnegate, 0)::regoperator, oprrest, oprjoin, oprcanmerge, oprcanhash)
      FROM pg_operator o JOIN ns ON ns.oid = oprnamespace
     WHERE oprcode <> 0 AND NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_operator'::regclass AND objid = o.oid)
    UNION ALL
    SELECT format('operator class %I.%I %s type %s default %s family %s storage %s', ns.nspname, opcname, amname, opcintype::regtype,
                  opcdefault, opfname, nullif(opckeytype, 0)::regtype)
      FROM pg_opclass c JOIN ns ON ns.oid = opcnamespace JOIN pg_am a ON a.oid = opcmethod JOIN pg_opfamily f ON f.oid = opcfamily
     WHERE NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_opclass'::regclass AND objid = c.oid)
    UNION ALL
    SELECT format('operator family %I.%I %s %s %s', ns.nspname, opfname, amname,
                  (SELECT string_agg(format('%s %s %s', amopstrategy, amopopr::regoperator, amoppurpose), ','
                                     ORDER BY amopstrategy, amopopr::regoperator::text COLLATE "C") FROM pg_amop WHERE amopfamily = f.oid),
                  (SELECT string_agg(format('%s %s %s %s', amprocnum, amproclefttype::regtype, amprocrighttype::regtype, amproc::regprocedure), ','
                                     ORDER BY amprocnum, amproclefttype::regtype::text COLLATE "C", amprocrighttype::regtype::text COLLATE "C")
                     FROM pg_amproc WHERE amprocfamily = f.oid))
      FROM pg_opfamily f JOIN ns ON ns.oid = opfnamespace JOIN pg_am a ON a.oid = opfmethod
     WHERE NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_opfamily'::regclass AND objid = f.oid)
    UNION ALL
    SELECT format('cast %s as %s %s %s %s', castsource::regtype, casttarget::regtype, nullif(castfunc, 0)::regprocedure, castcontext, castmethod)
      FROM pg_cast c
     WHERE oid >= 16384 AND NOT EXISTS (SELECT FROM part WHERE classid = 'pg_cast'::regclass AND objid = c.oid)
    UNION ALL
    -- The spelling of ICU's locales depends on the version.
    SELECT format('collation %I.%I provider %s deterministic %s %s', ns.nspname, collname, collprovider, collisdeterministic,
                  CASE WHEN collprovider = 'c' THEN collcollate || '/' || collctype END)
      FROM pg_collation k JOIN ns ON ns.oid = collnamespace
     WHERE NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_collation'::regclass AND objid = k.oid)
    UNION ALL
    SELECT format('conversion %I.%I from %s to %s by %s default %s', ns.nspname, conname, pg_encoding_to_char(conforencoding),
                  pg_encoding_to_char(contoencoding), conproc, condefault)
      FROM pg_conversion k JOIN ns ON ns.oid = connamespace
     WHERE NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_conversion'::regclass AND objid = k.oid)
    UNION ALL
    SELECT format('text search configuration %s parser %s %s', t.oid::regconfig,
                  (SELECT format('%I.%I', n.nspname, prsname) FROM pg_ts_parser p JOIN pg_namespace n ON n.oid = prsnamespace WHERE p.oid = cfgparser),
                  (SELECT string_agg(format('%s %s', maptokentype, mapdict::regdictionary), ',' ORDER BY maptokentype, mapseqno)
                     FROM pg_ts_config_map WHERE mapcfg = t.oid))
      FROM pg_ts_config t JOIN ns ON ns.oid = cfgnamespace
     WHERE NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_ts_config'::regclass AND objid = t.oid)
    UNION ALL
    SELECT format('text search dictionary %s template %I options %s', d.oid::regdictionary, tmplname, dictinitoption)
      FROM pg_ts_dict d JOIN ns ON ns.oid = dictnamespace JOIN pg_ts_template m ON m.oid = dicttemplate
     WHERE NOT EXISTS (SELECT FROM part WHERE deptype = 'e' AND classid = 'pg_ts_dict'::regclass AND objid = d.oid)
    UNION ALL
    -- Comments on objects whose comments a dump carries, except the one on schema_version, which is the fence's.
    SELECT format('comment on %s %s: %s', o.type, o.identity, description)
      FROM pg_description d CROSS JOIN LATERAL pg_identify_object(classoid, objoid, objsubid) AS o
     WHERE objoid >= 16384 AND (classoid, objoid, objsubid) IS DISTINCT FROM ('pg_class'::regclass, to_regclass('public.schema_version'), 0)
       AND classoid = ANY (ARRAY['pg_class', 'pg_proc', 'pg_type', 'pg_constraint', 'pg_trigger', 'pg_rewrite', 'pg_policy', 'pg_namespace',
                                 'pg_operator', 'pg_opclass', 'pg_opfamily', 'pg_collation', 'pg_conversion', 'pg_ts_config', 'pg_ts_dict',
                                 'pg_statistic_ext', 'pg_largeobject']::regclass[])
       AND NOT EXISTS (SELECT FROM extensions e WHERE e.classid = classoid AND e.objid = objoid)
       AND NOT EXISTS (SELECT FROM pg_class f WHERE f.oid = objoid AND classoid = 'pg_class'::regclass AND relkind = 'f')
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = objoid AND classoid = 'pg_class'::regclass AND NOT indisvalid)
    UNION ALL
    -- What a server must already have before this can be loaded there. lacks.sql checks for it.
    SELECT DISTINCT format('needs extension %s in schema %s', extname, nspname)
      FROM extensions e
      JOIN pg_depend d ON d.refclassid = e.classid AND d.refobjid = e.objid AND d.deptype = 'n'
      JOIN pg_extension x ON x.oid = e.extension
      JOIN pg_namespace n ON n.oid = extnamespace
     WHERE NOT EXISTS (SELECT FROM extensions m WHERE m.classid = d.classid AND m.objid = d.objid)
       -- Without dependencies among extensions, and those of objects that are not carried.
       AND d.classid <> ALL (ARRAY['pg_extension', 'pg_foreign_server', 'pg_foreign_data_wrapper', 'pg_user_mapping', 'pg_language',
                                   'pg_event_trigger', 'pg_transform']::regclass[])
       AND NOT EXISTS (SELECT FROM pg_class f WHERE d.classid = 'pg_class'::regclass AND f.oid = d.objid AND f.relkind = 'f')
       AND NOT EXISTS (SELECT FROM pg_index i WHERE d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid AND NOT indisvalid)
       AND NOT EXISTS (SELECT FROM pg_type t JOIN pg_class f ON f.oid = typrelid
                        WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND f.relkind = 'f')
    UNION ALL
    -- Collations of the operating system or of ICU.
    SELECT DISTINCT format('needs collation %s', collname)
      FROM pg_depend d JOIN pg_collation k ON k.oid = refobjid
     WHERE refclassid = 'pg_collation'::regclass AND collnamespace = 'pg_catalog'::regnamespace AND objid >= 16384
       AND NOT EXISTS (SELECT FROM extensions m WHERE m.classid = d.classid AND m.objid = d.objid)
       AND NOT EXISTS (SELECT FROM pg_class f WHERE d.classid = 'pg_class'::regclass AND f.oid = d.objid AND f.relkind = 'f')
       AND NOT EXISTS (SELECT FROM pg_index i WHERE d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid AND NOT indisvalid)
    UNION ALL
    SELECT DISTINCT 'needs locales of ICU'
      FROM pg_collation k JOIN ns ON ns.oid = collnamespace
     WHERE collprovider = 'i' AND NOT EXISTS (SELECT FROM extensions m WHERE m.classid = 'pg_collation'::regclass AND m.objid = k.oid)
    UNION ALL
    SELECT DISTINCT format('needs role %s', rolname)
      FROM rel JOIN pg_policy ON polrelid = rel.oid JOIN pg_roles r ON r.oid = ANY (polroles)
    UNION ALL
    SELECT 'needs compression lz4'
      FROM older
     WHERE EXISTS (SELECT FROM pg_attribute WHERE attcompression = 'l' AND NOT attisdropped AND attrelid IN (SELECT oid FROM rel WHERE relkind IN ('r', 'p')))
    UNION ALL
    -- Policies do not apply to the owner of a table, unless row security is forced.
    SELECT DISTINCT 'needs right BYPASSRLS' FROM rel WHERE relrowsecurity AND relforcerowsecurity
    UNION ALL
    -- Objects that only a superuser can create.
    SELECT format('needs right SUPERUSER for %s %s', what, name)
      FROM (SELECT 'pg_proc'::regclass::oid AS classid, p.oid AS objid, 'function' AS what, p.oid::regprocedure::text AS name
              FROM pg_proc p JOIN ns ON ns.oid = pronamespace JOIN pg_language l ON l.oid = prolang
             WHERE (NOT lanpltrusted AND prokind <> 'a' OR proleakproof OR prosupport <> 0
                    OR EXISTS (SELECT FROM unnest(proconfig) AS given(item) JOIN pg_settings s ON s.name = split_part(item, '=', 1)
                                WHERE s.context IN ('superuser', 'superuser-backend')))
               AND NOT EXISTS (SELECT FROM part WHERE classid = 'pg_proc'::regclass AND objid = p.oid)
             UNION ALL
            SELECT 'pg_opclass'::regclass, c.oid, 'operator class', format('%I.%I', ns.nspname, opcname)
              FROM pg_opclass c JOIN ns ON ns.oid = opcnamespace
             UNION ALL
            SELECT 'pg_opfamily'::regclass, f.oid, 'operator family', format('%I.%I', ns.nspname, opfname)
              FROM pg_opfamily f JOIN ns ON ns.oid = opfnamespace
             UNION ALL
            SELECT 'pg_type'::regclass, t.oid, 'type', t.oid::regtype::text
              FROM pg_type t JOIN ns ON ns.oid = typnamespace
             WHERE typtype = 'b' AND NOT (typelem <> 0 AND typlen = -1)
             UNION ALL
            SELECT 'pg_cast'::regclass, oid, 'cast', format('%s as %s', castsource::regtype, casttarget::regtype)
              FROM pg_cast WHERE oid >= 16384 AND castmethod = 'b') x
     WHERE NOT EXISTS (SELECT FROM extensions m WHERE m.classid = x.classid AND m.objid = x.objid)
    UNION ALL
    SELECT DISTINCT format('needs access method %s', amname)
      FROM rel JOIN pg_am a ON a.oid = relam
     WHERE a.oid >= 16384 AND NOT EXISTS (SELECT FROM extensions m WHERE m.classid = 'pg_am'::regclass AND m.objid = a.oid)
)
SELECT line FROM line
