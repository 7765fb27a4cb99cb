-- Facts about the server, the database and the role of this session.
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       d.datname::text AS database,
       current_setting('server_version_num')::int4 AS version,
       current_setting('server_version') AS version_text,
       current_setting('server_encoding') AS encoding,
       d.datcollate::text AS collate,
       d.datctype::text AS ctype,
       -- This column exists since PostgreSQL 15.
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
       pg_get_userbyid(d.datdba)::text AS owner,
       session_user::text AS "user",
       r.rolsuper AS superuser,
       pg_is_in_recovery() AS standby,
       pg_database_size(d.oid) AS bytes
  FROM pg_database d, pg_roles r
 WHERE d.datname = current_database() AND r.rolname = session_user
