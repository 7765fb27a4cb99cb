-- How many users belong to another server name than $1, counted no further than a million, and one of them.
SELECT count(*), min(name)
  FROM (SELECT name FROM public.users WHERE substr(name, strpos(name, ':') + 1) <> $1 LIMIT 1000000) AS counted
