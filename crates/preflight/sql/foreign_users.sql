-- How many users belong to another server name than $1, and one of them.
SELECT count(*), min(name) FROM public.users WHERE substr(name, strpos(name, ':') + 1) <> $1
