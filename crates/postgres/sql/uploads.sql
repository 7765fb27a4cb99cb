-- The next local media by id. sha256 is read through JSON, because older versions of Synapse lack this column. An
-- upload without a length was never completed. Ids are random, so that the first pages are a random sample.
SELECT media_id,
       media_length::int8,
       url_cache IS NOT NULL,
       to_jsonb(media) ->> 'sha256'
  FROM public.local_media_repository AS media
 WHERE media_length IS NOT NULL AND media_id > $1 AND (url_cache IS NULL OR $2)
 ORDER BY media_id
 LIMIT 1000
