-- Whether a Matrix Media Repo keeps its tables here.
SELECT to_regclass('public.datastores') IS NOT NULL AND to_regclass('public.media_attributes') IS NOT NULL
