-- By which providers people log in, a million accounts looked at at most.
SELECT DISTINCT auth_provider FROM (SELECT auth_provider FROM public.user_external_ids LIMIT 1000000) AS seen ORDER BY 1
