-- The part after the first colon of every user's Matrix ID: a homeserver has one.
SELECT DISTINCT substr(name, strpos(name, ':') + 1) FROM public.users WHERE name LIKE '%:%' ORDER BY 1 LIMIT 10
