-- The number of users that are not guests, counted up to $1 + 1.
SELECT count(*) FROM (SELECT FROM public.users WHERE coalesce(is_guest, 0) = 0 LIMIT $1::int8 + 1) AS found
