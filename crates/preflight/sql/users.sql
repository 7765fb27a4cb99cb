-- People with an account, counted no further than a million.
SELECT count(*)
  FROM (SELECT FROM public.users WHERE is_guest = 0 AND deactivated = 0 AND appservice_id IS NULL LIMIT 1000000) AS counted
