-- Schema and name of each relation, from qualified names as written in SQL.
SELECT n.nspname::text, c.relname::text
  FROM unnest($1::text[]) WITH ORDINALITY AS written (name, place)
  JOIN pg_class c ON c.oid = written.name::regclass
  JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY written.place
