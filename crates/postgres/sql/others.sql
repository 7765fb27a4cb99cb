-- Sessions of others on this database, without the roles in $1.
SELECT usename::text, coalesce(application_name, ''), coalesce(host(client_addr), ''), pid
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND pid <> pg_backend_pid()
   AND usename IS NOT NULL
   AND coalesce(application_name, '') NOT LIKE 'ess-migrate/%'
   AND NOT usename::text = ANY($1)
 ORDER BY backend_start, pid
