-- Tables, sequences and large objects that our role is not allowed to read, or in which a policy hides rows from it.
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
   AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
   AND NOT (has_schema_privilege(n.oid, 'USAGE')
            AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                     ELSE has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) END)
UNION ALL
SELECT format('large object %s', oid)
  FROM pg_largeobject_metadata
 WHERE NOT pg_has_role(lomowner, 'USAGE') AND NOT current_setting('lo_compat_privileges')::bool
   AND NOT EXISTS (SELECT FROM aclexplode(lomacl)
                    WHERE privilege_type = 'SELECT' AND (grantee = 0 OR pg_has_role(grantee, 'USAGE')))
 ORDER BY 1
