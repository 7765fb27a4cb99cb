-- Those of the roles $1 that own a table in the schema public or, unless they are superusers, the database.
SELECT rolname::text
  FROM pg_roles AS r
 WHERE rolname = ANY($1)
   AND (EXISTS (SELECT FROM pg_class WHERE relowner = r.oid AND relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p'))
        OR NOT rolsuper AND EXISTS (SELECT FROM pg_database WHERE datdba = r.oid AND datname = current_database()))
 ORDER BY 1
