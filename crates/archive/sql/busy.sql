-- The number of sessions with application_name $1 that are running a query and not waiting for a lock.
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = $1 AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'
