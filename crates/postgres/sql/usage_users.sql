-- How many users that are no guests, as far as $1 and one more.
SELECT count(*) FROM (SELECT FROM public.users WHERE coalesce(is_guest, 0) = 0 LIMIT $1::int8 + 1) AS found
