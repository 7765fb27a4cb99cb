-- How many of this server's users sent a message, as far as $1 and one more.
SELECT count(*) FROM (
    SELECT DISTINCT sender FROM public.events
     WHERE type = 'm.room.message' AND sender IN (SELECT name FROM public.users)
     LIMIT $1::int8 + 1) AS found
