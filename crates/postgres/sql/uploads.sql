-- The next media of this server by id, as json for a column that older Synapses lack. An upload without a length was
-- begun and never came. Ids are random, so that some speak for all.
SELECT media_id,
       media_length::int8,
       url_cache IS NOT NULL,
       to_jsonb(media) ->> 'sha256'
  FROM public.local_media_repository AS media
 WHERE media_length IS NOT NULL AND media_id > $1 AND (url_cache IS NULL OR $2)
 ORDER BY media_id
 LIMIT 1000
