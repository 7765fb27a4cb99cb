-- Tables of extensions whose rows pg_dump would take for the users': the extensions stay behind, and so do these.
SELECT n.nspname::text, c.relname::text
  FROM pg_extension e
 CROSS JOIN unnest(extconfig) AS config
  JOIN pg_class c ON c.oid = config
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
 ORDER BY 1, 2
