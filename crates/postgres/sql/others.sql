-- Sessions of other programs on this database, without those of the roles in $1, and without those that a pooler keeps
-- idle: it resets a session when its client has disconnected, and gives it to the next client when that sends its first
-- query. A session that was reset less than 3 seconds ago may still be in use, if the pooler resets it after each
-- transaction.
SELECT usename::text, coalesce(application_name, ''), coalesce(host(client_addr), ''), pid
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND pid <> pg_backend_pid()
   AND usename IS NOT NULL
   AND coalesce(application_name, '') NOT LIKE 'ess-migrate/%'
   AND NOT usename::text = ANY($1)
   AND NOT coalesce(state = 'idle' AND query ~* '^\s*DISCARD\s+ALL\s*;?\s*$'
                    AND clock_timestamp() - state_change > interval '3 seconds', false)
 ORDER BY backend_start, pid
