-- Whether users of this server uploaded anything.
SELECT EXISTS (SELECT FROM public.local_media_repository WHERE url_cache IS NULL)
