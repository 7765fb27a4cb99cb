-- The search_path with which role $1 begins a session in this database. In this order: the role's setting for this
-- database, the role's setting, the database's, the server's.
WITH setting AS (
    SELECT setrole, setdatabase, substr(entry, strpos(entry, '=') + 1) AS value
      FROM pg_db_role_setting, unnest(setconfig) AS entry
     WHERE entry LIKE 'search\_path=%'
), here AS (
    SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
           (SELECT oid FROM pg_roles WHERE rolname = $1) AS role,
           (SELECT oid FROM pg_roles WHERE rolname = session_user) AS ours
)
SELECT coalesce(
           (SELECT value FROM setting WHERE setrole = role AND setdatabase = database),
           (SELECT value FROM setting WHERE setrole = role AND setdatabase = 0),
           (SELECT value FROM setting WHERE setrole = 0 AND setdatabase = database),
           -- The value with which our own session began, unless it is a setting of our role.
           (SELECT reset_val FROM pg_settings
             WHERE name = 'search_path' AND NOT EXISTS (SELECT FROM setting WHERE setrole = ours)),
           '"$user", public')
  FROM here
