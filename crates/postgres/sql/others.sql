-- Sessions of others on this database, without the roles in $1, and without those that a pooler has at hand for
-- nobody: it resets a session when a client is gone, and gives it to the next with that client's first query. One that
-- was reset just now may be in the middle of a client's work, where the pooler resets it after each transaction.
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
