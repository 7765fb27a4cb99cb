-- Of these ids, the digests that Synapse has of their files.
SELECT media_id, to_jsonb(media) ->> 'sha256'
  FROM public.local_media_repository AS media
 WHERE media_id = ANY ($1::text[]) AND to_jsonb(media) ->> 'sha256' IS NOT NULL
