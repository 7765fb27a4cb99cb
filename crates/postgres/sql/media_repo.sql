-- Whether the database contains the tables of a Matrix Media Repo.
SELECT to_regclass('public.datastores') IS NOT NULL AND to_regclass('public.media_attributes') IS NOT NULL
