-- How many more locks the server's lock table is sure to hold, and for how many transactions it has room.
WITH server AS (
    SELECT current_setting('max_locks_per_transaction')::int8 AS each,
           current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8 AS transactions
)
SELECT each * transactions - (SELECT count(*) FROM pg_locks) AS free, each, transactions FROM server
