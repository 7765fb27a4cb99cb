-- What we and the role $1 may do on a target. Since PostgreSQL 16 a membership may lack SET. What the role owns is read
-- without becoming it, which a membership without INHERIT does not allow.
SELECT CASE WHEN current_setting('server_version_num')::int4 >= 160000
            THEN pg_has_role(r.oid, 'SET') ELSE pg_has_role(r.oid, 'MEMBER') END AS acts,
       pg_has_role(r.oid, 'USAGE') AS inherits,
       n.oid IS NOT NULL AND has_schema_privilege(r.oid, n.oid, 'CREATE') AS creates
  FROM pg_roles r
  LEFT JOIN pg_namespace n ON n.nspname = 'public'
 WHERE r.rolname = $1
