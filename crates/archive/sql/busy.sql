-- How many sessions with the application_name $1 are at work.
SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'
