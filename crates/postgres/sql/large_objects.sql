-- The number of large objects, and a digest of their OIDs and contents, as a line of the catalogue.
WITH RECURSIVE piece AS (
    -- In pieces, because a large object can exceed the maximum size of a value.
    SELECT m.oid, 0::int8 AS place, length(d) AS bytes, encode(sha256(d), 'hex') AS hash
      FROM pg_largeobject_metadata m CROSS JOIN LATERAL lo_get(m.oid, 0, 1 << 20) AS d
    UNION ALL
    SELECT p.oid, p.place + (1 << 20), length(d), encode(sha256(d), 'hex')
      FROM piece p CROSS JOIN LATERAL lo_get(p.oid, p.place + (1 << 20), 1 << 20) AS d WHERE p.bytes = 1 << 20
)
SELECT format('large objects %s contents %s', count(DISTINCT oid),
              sum(hashtextextended(format('%s %s %s', oid, place, hash), 0)))
  FROM piece HAVING count(*) > 0
