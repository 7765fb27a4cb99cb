-- Synapse's background updates that are not finished.
SELECT update_name FROM public.background_updates ORDER BY ordering, update_name
