-- Names of the ordinary tables in schema public.
SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = to_regnamespace('public')
