-- The number of events, counted up to $1 + 1.
SELECT count(*) FROM (SELECT FROM public.events LIMIT $1::int8 + 1) AS found
