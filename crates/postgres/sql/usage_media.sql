-- How many media of this server's users, as far as $1 and one more.
SELECT count(*) FROM (SELECT FROM public.local_media_repository WHERE url_cache IS NULL LIMIT $1::int8 + 1) AS found
