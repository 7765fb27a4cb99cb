-- A homeserver's busy tables in the proportions of a large one, filled by :events messages: many narrow rows under many
-- indexes. The state of rooms is the largest part.
SET synchronous_commit = off;
CREATE FUNCTION pg_temp.noise(seed text, blocks int) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(encode(decode(md5(seed || i), 'hex'), 'base64'), '') FROM generate_series(1, blocks) i $$;
CREATE TEMP TABLE message AS
    SELECT i, '$' || encode(sha256(i::text::bytea), 'base64') AS id,
           '!' || left(md5((i % 400)::text), 18) || ':example.org' AS room,
           '@user' || (i % 900) || ':example.org' AS sender, 1700000000000 + i * 1000 AS ts
      FROM generate_series(1, :events) i;
-- Servers that have been upgraded for years have more indexes than one of today.
CREATE INDEX IF NOT EXISTS state_groups_state_room_id_idx ON state_groups_state (room_id);
CREATE INDEX IF NOT EXISTS events_depth ON events (room_id, depth);
CREATE INDEX IF NOT EXISTS events_sender ON events (sender, stream_ordering);
CREATE INDEX IF NOT EXISTS events_type ON events (type, room_id);
CREATE INDEX IF NOT EXISTS events_received ON events (received_ts);
INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts,
                    received_ts, sender, contains_url, instance_name, stream_ordering)
    SELECT i, id, CASE WHEN i % 5 = 0 THEN 'm.reaction' ELSE 'm.room.encrypted' END, room, true, false, i, ts, ts + 40,
           sender, false, 'master', i + 100000 FROM message;
INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
    SELECT id, room, '{"token_id":17,"stream_ordering":' || i || ',"instance_name":"master"}',
           '{"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"' || pg_temp.noise(id, 44) || '"},"sender":"' || sender
           || '","room_id":"' || room || '","type":"m.room.encrypted","origin_server_ts":' || ts || '}', 10 FROM message;
INSERT INTO event_edges (event_id, prev_event_id, is_state) SELECT id, lag(id, 1, id) OVER (ORDER BY i), false FROM message;
INSERT INTO event_edges (event_id, prev_event_id, is_state) SELECT id, '$' || md5(id), false FROM message WHERE i % 2 = 0;
INSERT INTO event_auth (event_id, auth_id, room_id)
    SELECT id, '$' || encode(sha256((i % 400 * 3 + n)::text::bytea), 'base64'), room FROM message, generate_series(1, 3) n;
INSERT INTO event_to_state_groups (event_id, state_group) SELECT id, i / 4 + 1000 FROM message;
INSERT INTO event_search (event_id, room_id, sender, key, vector, origin_server_ts, stream_ordering)
    SELECT id, room, sender, 'content.body', to_tsvector('simple', translate(left(pg_temp.noise(id, 6), 100), '+/', '  ')), ts, i
      FROM message WHERE i % 5 < 4;
INSERT INTO event_push_actions (room_id, event_id, user_id, actions, topological_ordering, stream_ordering, notif, highlight,
                                unread, thread_id)
    SELECT room, id, '@user' || (i * 7 + n) % 900 || ':example.org', '["notify",{"set_tweak":"highlight","value":false}]', i,
           i + 100000, 1, 0, 1, 'main'
      FROM message, generate_series(1, 1 + i % 2) n;
INSERT INTO device_inbox (user_id, device_id, stream_id, message_json, instance_name)
    SELECT sender, upper(left(md5(sender), 10)), i, '{"type":"m.room.encrypted","sender":"' || sender || '","content":{"ciphertext":"'
           || pg_temp.noise(id || 'd', 28) || '"}}', 'master' FROM message WHERE i % 2 = 0;
INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
    SELECT i / 4 + 1000, room, 'm.room.member', '@user' || (i * 7 + n) % 5000 || ':example.org',
           '$' || encode(sha256(((i * 7 + n) % 100000)::text::bytea), 'base64')
      FROM message, generate_series(1, 22) n;
INSERT INTO state_groups (id, room_id, event_id) SELECT i / 4 + 1000, room, id FROM message WHERE i % 4 = 0;
INSERT INTO state_group_edges (state_group, prev_state_group) SELECT i / 4 + 1000, i / 4 + 999 FROM message WHERE i % 4 = 0;
INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data, instance_name)
    SELECT i, room, 'm.read', sender || i, id, '{"ts":' || ts || '}', 'master' FROM message WHERE i % 4 = 0;
DROP TABLE message;
ANALYZE;
