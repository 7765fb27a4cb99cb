-- Transactions of this database that were prepared and neither committed nor rolled back.
SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
