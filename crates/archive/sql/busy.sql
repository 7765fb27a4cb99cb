-- How many sessions with the application_name $1 are at work, and not waiting for a lock.
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = $1 AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'
