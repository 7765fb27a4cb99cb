-- The number of local users that have sent a message, counted up to $1 + 1.
SELECT count(*) FROM (
    SELECT DISTINCT sender FROM public.events
     WHERE type = 'm.room.message' AND sender IN (SELECT name FROM public.users)
     LIMIT $1::int8 + 1) AS found
