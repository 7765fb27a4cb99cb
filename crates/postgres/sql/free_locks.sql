-- How many more locks the server's lock table is sure to hold.
SELECT current_setting('max_locks_per_transaction')::int8
       * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8)
       - (SELECT count(*) FROM pg_locks)
