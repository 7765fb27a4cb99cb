-- The SHA-256 that Synapse stored for files with these ids.
SELECT media_id, to_jsonb(media) ->> 'sha256'
  FROM public.local_media_repository AS media
 WHERE media_id = ANY ($1::text[]) AND to_jsonb(media) ->> 'sha256' IS NOT NULL
