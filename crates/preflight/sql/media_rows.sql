-- The next uploads by id; an upload without a length was begun and never came. Ids are random, so that some speak for all.
SELECT media_id, media_length::int8
  FROM public.local_media_repository
 WHERE url_cache IS NULL AND media_length IS NOT NULL AND media_id > $1
 ORDER BY media_id
 LIMIT 1000
