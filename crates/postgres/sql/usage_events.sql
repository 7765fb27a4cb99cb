-- How many events, as far as $1 and one more.
SELECT count(*) FROM (SELECT FROM public.events LIMIT $1::int8 + 1) AS found
