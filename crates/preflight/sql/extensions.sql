-- Extensions but the one that every database has.
SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1
