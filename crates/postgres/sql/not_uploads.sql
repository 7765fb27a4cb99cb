-- Of these ids, those that no upload has.
SELECT id
  FROM unnest($1::text[]) AS id
 WHERE NOT EXISTS (SELECT FROM public.local_media_repository WHERE media_id = id)
