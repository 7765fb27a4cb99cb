-- What a wipe must not change: extensions, and the schema public with its owner, privileges and comment.
SELECT format('extension %I %s', extname, extversion) FROM pg_extension
UNION ALL
SELECT format('schema public owner %s privileges %s comment %s', pg_get_userbyid(nspowner), nspacl,
              obj_description(oid, 'pg_namespace'))
  FROM pg_namespace WHERE nspname = 'public'
ORDER BY 1
