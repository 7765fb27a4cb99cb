-- The furthest position that any of Synapse's processes recorded for each stream; $1 names those that count down.
SELECT stream_name, max(CASE WHEN stream_name = ANY($1) THEN -stream_id ELSE stream_id END)
  FROM public.stream_positions
 GROUP BY 1
