-- The newest event of a user of server $1, among the last 10 000 events: a search of all could take long.
SELECT event_json.json
FROM (
    SELECT event_id, sender, stream_ordering FROM public.events ORDER BY stream_ordering DESC LIMIT 10000
) AS newest
JOIN public.event_json USING (event_id)
WHERE right(newest.sender, length($1) + 1) = ':' || $1
ORDER BY newest.stream_ordering DESC
LIMIT 1
