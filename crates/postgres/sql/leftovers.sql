-- Other sessions of this role on this database whose application_name begins with one of $1.
SELECT pid
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND pid <> pg_backend_pid()
   AND usename = session_user
   AND EXISTS (SELECT FROM unnest($1::text[]) AS prefix WHERE starts_with(application_name, prefix))
