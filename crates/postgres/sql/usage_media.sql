-- The number of media of local users, counted up to $1 + 1.
SELECT count(*) FROM (SELECT FROM public.local_media_repository WHERE url_cache IS NULL LIMIT $1::int8 + 1) AS found
