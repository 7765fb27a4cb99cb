-- Users who came in the last thirty days.
SELECT count(DISTINCT user_id)
  FROM public.user_daily_visits
 WHERE timestamp > 1000 * extract(epoch FROM now() - interval '30 days')::int8
