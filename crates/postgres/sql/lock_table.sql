-- How many more locks certainly fit into the server's lock table, and for how many transactions it is sized.
WITH server AS (
    SELECT current_setting('max_locks_per_transaction')::int8 AS each,
           current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8 AS transactions
)
SELECT each * transactions - (SELECT count(*) FROM pg_locks) AS free, each, transactions FROM server
