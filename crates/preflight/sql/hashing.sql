-- How many bytes were hashed, and in how many seconds by the server's own clock: $1 rows of 256.
SELECT 256 * count(hashtextextended(repeat(md5(n::text), 8), 0))::int8,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
  FROM generate_series(1, $1::int4) AS n
