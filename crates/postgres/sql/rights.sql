-- The permissions of our role and of role $1 on a target. Since PostgreSQL 16, a membership can lack SET. A membership
-- without INHERIT does not allow reading what the role owns without SET ROLE.
SELECT CASE WHEN current_setting('server_version_num')::int4 >= 160000
            THEN pg_has_role(r.oid, 'SET') ELSE pg_has_role(r.oid, 'MEMBER') END AS acts,
       pg_has_role(r.oid, 'USAGE') AS inherits,
       n.oid IS NOT NULL AND has_schema_privilege(r.oid, n.oid, 'CREATE') AS creates
  FROM pg_roles r
  LEFT JOIN pg_namespace n ON n.nspname = 'public'
 WHERE r.rolname = $1
