-- Those of these ids that do not belong to an upload.
SELECT id
  FROM unnest($1::text[]) AS id
 WHERE NOT EXISTS (SELECT FROM public.local_media_repository WHERE media_id = id)
