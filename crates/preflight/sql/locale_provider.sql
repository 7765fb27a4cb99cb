-- Who sorts by default: c for the C library, i for ICU (from PostgreSQL 15 on), b for the server itself.
SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate::text) AS locale
  FROM pg_database d
 WHERE d.datname = current_database()
