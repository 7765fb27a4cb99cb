-- Configuration tables of extensions, whose rows pg_dump would dump. Extensions are not carried, so their rows are not
-- either.
SELECT n.nspname::text, c.relname::text
  FROM pg_extension e
 CROSS JOIN unnest(extconfig) AS config
  JOIN pg_class c ON c.oid = config
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
 ORDER BY 1, 2
