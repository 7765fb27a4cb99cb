-- Replication slots that concern this database: its own logical ones, and all physical ones.
SELECT slot_name::text FROM pg_replication_slots WHERE database IS NULL OR database = current_database() ORDER BY 1
