//! A homeserver that people have used: created through Synapse's own API, and checked again on the server to which it
//! was moved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::postgres::percent;
use super::synapse::{Synapse, run_python};

pub(crate) const SERVER_NAME: &str = "example.org";

/// Texts that people write, and texts that a careless parser of a dump would misread.
const BODIES: &[&str] = &[
    "good morning",
    "Grüße aus Köln, naïve façade — “quoted” … ∑ ẞ",
    "🦀🚀👩‍👩‍👧‍👦 🏳️‍🌈 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "שלום עולם، مرحبا بالعالم \u{202e}reversed\u{202c}",
    "日本語のメッセージ 한국어 中文",
    "e\u{301} is not é, and \u{200b} is not nothing",
    "ALTER TABLE public.users OWNER TO synapse_user;",
    "OWNER TO synapse",
    "-- Name: users; Type: TABLE; Schema: public; Owner: synapse",
    "CREATE DATABASE synapse WITH TEMPLATE = template0; \\connect synapse",
    "DATABASE synapse",
    "DROP TABLE users; -- '); DELETE FROM events; --",
    "COPY public.users (name) FROM stdin;\nmallory\n\\.\n\nSELECT 1;",
    "\\.",
    "\\N",
    "\\",
    "\\\\ two, \\t not a tab, \\x41, C:\\new\\table",
    "a\ttab and a\nline and a\r\nline of Windows",
    "$$ dollar $quoted$ text $quoted$ $$ {curly} %s %(name)s :name ?",
    "\"double\" 'single' `back` ''twice''",
    "<b>markup</b> &amp; entities",
    " spaces around ",
    "--\n-- PostgreSQL database dump complete\n--",
];

/// The content that was created.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Seeded {
    /// The users; the first is an administrator.
    pub(crate) users: Vec<User>,
    pub(crate) rooms: Vec<String>,
    pub(crate) messages: Messages,
    pub(crate) media: Vec<Media>,
    /// The alias of the first room.
    pub(crate) alias: String,
    /// Account data of the first user.
    pub(crate) account_data: Value,
    /// Device keys of the first user.
    pub(crate) device_keys: Value,
    /// The number of unclaimed one-time keys of the first user.
    pub(crate) one_time_keys: u64,
    /// As published at `/_matrix/key/v2/server`.
    pub(crate) verify_keys: Value,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) password: String,
    pub(crate) token: String,
    pub(crate) device: String,
}

/// Messages by event id.
type Messages = BTreeMap<String, Message>;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) room: String,
    pub(crate) body: String,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Media {
    pub(crate) uri: String,
    pub(crate) kind: String,
    pub(crate) bytes: Vec<u8>,
}

impl Seeded {
    /// Creates the content on a new server.
    pub(super) fn fill(synapse: &Synapse) -> Self {
        let users: Vec<User> = [
            ("alice", "Wörd'pass \"1\" \\%"),
            ("bob", "bob's password"),
            ("carol", "c4r0l"),
        ]
        .iter()
        .enumerate()
        .map(|(number, (name, password))| register(synapse, name, password, number == 0))
        .collect();
        let mut messages = BTreeMap::new();
        let rooms = vec![
            fill_hall(synapse, &users, &mut messages),
            fill_private_room(synapse, &users, &mut messages),
        ];
        leave_a_room(synapse, &users[2]);
        let alice = &users[0];
        let account_data = json!({
            "theme": "dark \\. 'n' \"light\"", "emoji": "🦀", "nested": {"list": [1, 2.5, null]},
        });
        synapse.put(&account_data_path(alice), Some(&alice.token), &account_data);
        let name = format!("/_matrix/client/v3/profile/{}/displayname", percent(&alice.id));
        synapse.put(&name, Some(&alice.token), &json!({"displayname": "Alice 🦊 O'Hara"}));
        let device_keys = device_keys(alice);
        let keys = json!({"device_keys": device_keys, "one_time_keys": one_time_keys()});
        synapse.post("/_matrix/client/v3/keys/upload", Some(&alice.token), &keys);
        let note = json!({"messages": {&users[1].id: {"*": {"note": "to every device \\. of bob"}}}});
        let to_device = "/_matrix/client/v3/sendToDevice/org.example.note/1";
        synapse.put(to_device, Some(&alice.token), &note);
        let media = vec![
            upload(synapse, alice, "application/octet-stream", (0..=255).collect()),
            upload(synapse, alice, "image/png", run_python(PICTURE)),
        ];

        let mut seeded = Self {
            rooms,
            messages,
            media,
            alias: format!("#hall:{SERVER_NAME}"),
            account_data,
            device_keys,
            one_time_keys: 0,
            verify_keys: verify_keys(synapse),
            users,
        };
        seeded.one_time_keys = seeded.one_time_keys_on(synapse);
        seeded.check(synapse);
        seeded.check_media_files(synapse);
        seeded
    }

    /// A server that was tried once: one user, and a room with a word in it.
    pub(super) fn try_out(synapse: &Synapse) -> Self {
        let users = vec![register(synapse, "ess-test", "only a test", true)];
        let mut messages = BTreeMap::new();
        let room = create_room(synapse, &users[0], &json!({"name": "test"}));
        send(synapse, &users[0], &room, "does it work?", &mut messages);
        Self {
            users,
            rooms: vec![room],
            messages,
            media: vec![],
            alias: String::new(),
            account_data: Value::Null,
            device_keys: Value::Null,
            one_time_keys: 0,
            verify_keys: verify_keys(synapse),
        }
    }

    pub(crate) fn admin(&self) -> &User {
        &self.users[0]
    }

    /// Fails unless the server has the same content: no user was logged out, and everything is equal. Logs users in,
    /// and therefore writes.
    #[track_caller]
    pub(crate) fn check(&self, synapse: &Synapse) {
        let admin = self.admin();
        for user in &self.users {
            let who = synapse.get("/_matrix/client/v3/account/whoami", Some(&user.token));
            assert_eq!(
                (&who["user_id"], &who["device_id"]),
                (&json!(user.id), &json!(user.device))
            );
            log_in(synapse, &user.id, &user.password);
        }
        for (event, message) in &self.messages {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/event/{}",
                percent(&message.room),
                percent(event)
            );
            let event = synapse.get(&path, Some(&admin.token));
            assert_eq!(event["content"]["body"], json!(message.body));
        }
        let alias = synapse.get(
            &format!("/_matrix/client/v3/directory/room/{}", percent(&self.alias)),
            None,
        );
        assert_eq!(alias["room_id"], json!(self.rooms[0]));
        assert_eq!(
            synapse.get(&account_data_path(admin), Some(&admin.token)),
            self.account_data
        );
        let query = json!({"device_keys": {&admin.id: []}});
        let keys = synapse.post("/_matrix/client/v3/keys/query", Some(&admin.token), &query);
        assert_eq!(
            keys["device_keys"][&admin.id][&admin.device]["keys"],
            self.device_keys["keys"]
        );
        let path = format!("/_synapse/admin/v1/users/{}/media", percent(&admin.id));
        let known = synapse.get(&path, Some(&admin.token));
        for media in &self.media {
            let id = json!(media.uri.rsplit('/').next());
            let row = known["media"]
                .as_array()
                .unwrap()
                .iter()
                .find(|row| row["media_id"] == id);
            assert_eq!(
                row.expect("the media is known")["media_length"],
                json!(media.bytes.len())
            );
        }
        assert_eq!(verify_keys(synapse), self.verify_keys);
    }

    /// Fails unless users can continue: what they add gets new numbers from the sequences.
    #[track_caller]
    pub(crate) fn goes_on(&self, synapse: &Synapse) {
        let admin = self.admin();
        let mut messages = BTreeMap::new();
        for (number, room) in self.rooms.iter().enumerate() {
            send(synapse, &self.users[number % 2], room, "after the move", &mut messages);
        }
        let since = synapse.get("/_matrix/client/v3/sync?timeout=0", Some(&admin.token));
        let events = since["rooms"]["join"][&self.rooms[0]]["timeline"]["events"]
            .as_array()
            .unwrap();
        assert_eq!(events.last().unwrap()["content"]["body"], json!("after the move"));
        synapse.put(&account_data_path(admin), Some(&admin.token), &json!({"moved": true}));
        let dave = register(synapse, "dave", "new here", false);
        synapse.post(
            &format!("/_matrix/client/v3/join/{}", percent(&self.alias)),
            Some(&dave.token),
            &json!({}),
        );
        upload(synapse, admin, "text/plain", b"new".to_vec());
    }

    /// Fails unless the media files are there too.
    #[track_caller]
    pub(crate) fn check_media_files(&self, synapse: &Synapse) {
        for media in &self.media {
            let path = media.uri.strip_prefix("mxc://").unwrap();
            let path = format!("/_matrix/client/v1/media/download/{path}");
            let (status, bytes) = synapse.request_bytes("GET", &path, Some(&self.admin().token), None);
            assert!(status == 200 && bytes == media.bytes, "{path}: {status}");
        }
    }

    /// The number of one-time keys that the server has for the first user's device.
    pub(crate) fn one_time_keys_on(&self, synapse: &Synapse) -> u64 {
        let answer = synapse.post("/_matrix/client/v3/keys/upload", Some(&self.admin().token), &json!({}));
        answer["one_time_key_counts"]["signed_curve25519"].as_u64().unwrap_or(0)
    }
}

/// A picture that is large enough for thumbnails.
const PICTURE: &str = "import sys; from PIL import Image; \
    Image.radial_gradient('L').resize((640, 480)).save(sys.stdout.buffer, 'png')";

/// Creates a room that all users are in and write to.
fn fill_hall(synapse: &Synapse, users: &[User], messages: &mut Messages) -> String {
    let (alice, bob, carol) = (&users[0], &users[1], &users[2]);
    let hall = create_room(
        synapse,
        alice,
        &json!({
            "name": "Hall — “unicode” 🏛", "topic": "OWNER TO synapse_user;",
            "preset": "public_chat", "room_alias_name": "hall",
        }),
    );
    join(synapse, bob, &hall);
    join(synapse, carol, &hall);
    for (number, body) in BODIES.iter().enumerate() {
        send(synapse, &users[number % users.len()], &hall, body, messages);
    }
    let first = messages.keys().next().unwrap();
    let like = json!({"rel_type": "m.annotation", "event_id": first, "key": "👍"});
    send_event(synapse, bob, &hall, "m.reaction", &json!({"m.relates_to": like}));
    let oops = json!({"msgtype": "m.text", "body": "oops"});
    let oops = percent(&send_event(synapse, bob, &hall, "m.room.message", &oops));
    let path = room_path(&hall);
    let reason = json!({"reason": "a \\. mistake"});
    synapse.put(&format!("{path}/redact/{oops}/1"), Some(&bob.token), &reason);
    let read = format!("{path}/receipt/m.read/{}", percent(first));
    synapse.post(&read, Some(&carol.token), &json!({}));
    hall
}

/// Creates an encrypted room of two users, whose messages the server cannot read.
fn fill_private_room(synapse: &Synapse, users: &[User], messages: &mut Messages) -> String {
    let (alice, bob) = (&users[0], &users[1]);
    let algorithm = "m.megolm.v1.aes-sha2";
    let encryption = json!({"type": "m.room.encryption", "content": {"algorithm": algorithm}});
    let room = create_room(
        synapse,
        alice,
        &json!({
            "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.id],
            "initial_state": [encryption],
        }),
    );
    join(synapse, bob, &room);
    send(synapse, alice, &room, "not yet encrypted", messages);
    let secret = json!({
        "algorithm": algorithm, "ciphertext": "AwgAEnAC+/\\", "sender_key": "k", "session_id": "s",
        "device_id": bob.device,
    });
    send_event(synapse, bob, &room, "m.room.encrypted", &secret);
    room
}

/// Creates a room that all members have left.
fn leave_a_room(synapse: &Synapse, user: &User) {
    let room = create_room(synapse, user, &json!({"name": "left behind", "preset": "private_chat"}));
    send(synapse, user, &room, "only me here", &mut BTreeMap::new());
    synapse.post(&format!("{}/leave", room_path(&room)), Some(&user.token), &json!({}));
}

fn register(synapse: &Synapse, name: &str, password: &str, admin: bool) -> User {
    synapse.register(name, password, admin);
    let id = format!("@{name}:{SERVER_NAME}");
    let session = log_in(synapse, &id, password);
    let text = |field: &str| session[field].as_str().unwrap().to_owned();
    User {
        password: password.to_owned(),
        token: text("access_token"),
        device: text("device_id"),
        id,
    }
}

fn log_in(synapse: &Synapse, user: &str, password: &str) -> Value {
    let identifier = json!({"type": "m.id.user", "user": user});
    let body = json!({"type": "m.login.password", "identifier": identifier, "password": password});
    synapse.post("/_matrix/client/v3/login", None, &body)
}

fn create_room(synapse: &Synapse, user: &User, how: &Value) -> String {
    let room = synapse.post("/_matrix/client/v3/createRoom", Some(&user.token), how);
    room["room_id"].as_str().unwrap().to_owned()
}

fn join(synapse: &Synapse, user: &User, room: &str) {
    let path = format!("/_matrix/client/v3/join/{}", percent(room));
    synapse.post(&path, Some(&user.token), &json!({}));
}

fn room_path(room: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}", percent(room))
}

fn send(synapse: &Synapse, user: &User, room: &str, body: &str, messages: &mut Messages) {
    let event = send_event(
        synapse,
        user,
        room,
        "m.room.message",
        &json!({"msgtype": "m.text", "body": body}),
    );
    messages.insert(
        event,
        Message {
            room: room.to_owned(),
            body: body.to_owned(),
        },
    );
}

/// Sends an event, and returns its id.
fn send_event(synapse: &Synapse, user: &User, room: &str, kind: &str, content: &Value) -> String {
    // Synapse treats a repeated transaction id as a repetition of the first request.
    let transaction = uuid();
    let path = format!("/_matrix/client/v3/rooms/{}/send/{kind}/{transaction}", percent(room));
    let event = synapse.put(&path, Some(&user.token), content);
    event["event_id"].as_str().unwrap().to_owned()
}

fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

fn upload(synapse: &Synapse, user: &User, kind: &str, bytes: Vec<u8>) -> Media {
    let path = "/_matrix/media/v3/upload?filename=na%C3%AFve%20name.bin";
    let (status, answer) = synapse.request_bytes("POST", path, Some(&user.token), Some((kind, bytes.clone())));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, 200, "{answer}");
    Media {
        uri: answer["content_uri"].as_str().unwrap().to_owned(),
        kind: kind.to_owned(),
        bytes,
    }
}

fn account_data_path(user: &User) -> String {
    format!(
        "/_matrix/client/v3/user/{}/account_data/org.example.settings",
        percent(&user.id)
    )
}

fn device_keys(user: &User) -> Value {
    let device = &user.device;
    json!({
        "user_id": user.id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI",
            format!("ed25519:{device}"): "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI",
        },
        "signatures": {&user.id: {format!("ed25519:{device}"): "dSO80A01XiigH3uBiDVx/EjzaoycHcjq9lfQX0uWsqxl2giMIiSPR8a4d291W1ihKJL/a+myXS367WT6NAIcBA"}},
    })
}

fn one_time_keys() -> Value {
    let key = |number: u8| {
        let name = format!("signed_curve25519:AAAA{}Q", char::from(b'A' + number));
        (
            name,
            json!({"key": format!("zKbLg+NrIjpnagy+pIY6uPL4ZwEG2v+8F9lmgsnlZz{number}"), "signatures": {}}),
        )
    };
    Value::Object((0..5).map(key).collect())
}

/// The public halves of the server's signing keys.
fn verify_keys(synapse: &Synapse) -> Value {
    synapse.get("/_matrix/key/v2/server", None)["verify_keys"].clone()
}
