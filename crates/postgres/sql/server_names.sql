-- The server names in the Matrix IDs of all users, after the first colon. A homeserver has only one.
SELECT DISTINCT substr(name, strpos(name, ':') + 1) FROM public.users WHERE name LIKE '%:%' ORDER BY 1 LIMIT 10
