-- How many more connections our role may open to this database, by the limits of the server, the database and the role;
-- those of database and role do not apply to superusers. The sessions of this run count as free, and with $1 also those
-- of our role, which Synapse has while it runs. Of other roles' sessions, backend_type can be null.
WITH others AS (
    SELECT datid, usesysid FROM pg_stat_activity
     WHERE usesysid IS NOT NULL AND datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
       AND (application_name <> current_setting('application_name') OR usename <> session_user)
       AND NOT ($1 AND datname = current_database() AND usename = session_user)
)
SELECT least(
           current_setting('max_connections')::int8 - (SELECT count(*) FROM others)
               - CASE WHEN rolsuper THEN 0
                      ELSE current_setting('superuser_reserved_connections')::int8
                           + coalesce(current_setting('reserved_connections', true), '0')::int8 END,
           CASE WHEN datconnlimit >= 0 AND NOT rolsuper
               THEN datconnlimit - (SELECT count(*) FROM others WHERE datid = d.oid) END,
           CASE WHEN rolconnlimit >= 0 AND NOT rolsuper
               THEN rolconnlimit - (SELECT count(*) FROM others WHERE usesysid = r.oid) END
       ) AS free
  FROM pg_database d, pg_roles r
 WHERE datname = current_database() AND rolname = session_user
