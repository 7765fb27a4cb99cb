-- What a dump needs on a server (the lines of catalogue.sql that begin with "needs") and what is missing there for our
-- role and for the role $2, which is to own everything.
SELECT need
  FROM unnest($1::text[]) AS need
 WHERE NOT CASE
       WHEN need LIKE 'extension %' THEN EXISTS (
           SELECT FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
            WHERE need = format('extension %s in schema %s', extname, nspname))
       WHEN need LIKE 'collation %' THEN EXISTS (
           SELECT FROM pg_collation
            WHERE collnamespace = 'pg_catalog'::regnamespace AND need = 'collation ' || collname
              AND collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding())))
       -- Builds without ICU have no collations of ICU.
       WHEN need = 'locales of ICU' THEN EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')
       WHEN need LIKE 'role %' THEN EXISTS (SELECT FROM pg_roles WHERE need = 'role ' || rolname)
       WHEN need LIKE 'compression %' THEN EXISTS (
           SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND need = ANY (SELECT 'compression ' || e FROM unnest(enumvals) AS e))
       WHEN need = 'right BYPASSRLS' THEN (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user)
       WHEN need LIKE 'right SUPERUSER for %' THEN (SELECT rolsuper FROM pg_roles WHERE rolname = $2)
       WHEN need LIKE 'access method %' THEN EXISTS (SELECT FROM pg_am WHERE need = 'access method ' || amname)
       ELSE false END
 ORDER BY need
