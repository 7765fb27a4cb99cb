//! The new documents: the content of the old ones, with the homeserver's new host.

use std::collections::{BTreeMap, BTreeSet};

use ess_web::{host_and_port, host_of_url};
use serde_json::{Map, Value, json};

/// The key of the client document that announces MatrixRTC.
const RTC: &str = "org.matrix.msc4143.rtc_foci";

/// The documents by name: `client`, `server` and, if there was one, `support`.
pub(crate) type Documents = BTreeMap<String, Value>;

/// What is served now, with the keys that an earlier run carried and that are no longer served.
pub(crate) fn with_earlier(mut served: Documents, earlier: &Documents) -> Documents {
    for (name, earlier) in earlier {
        let document = served.entry(name.clone()).or_insert_with(|| json!({}));
        if let (Some(document), Some(earlier)) = (document.as_object_mut(), earlier.as_object()) {
            for (key, value) in earlier {
                document.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    served
}

/// The new documents: the old ones with the hosts of Synapse and MatrixRTC in ESS.
pub(crate) fn merged(old: &Documents, host: &str, rtc_host: Option<&str>) -> Documents {
    let carried = |name: &str| old.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut client = carried("client");
    let mut homeserver = client
        .get("m.homeserver")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    homeserver.insert("base_url".to_owned(), format!("https://{host}").into());
    client.insert("m.homeserver".to_owned(), homeserver.into());
    if let Some(rtc_host) = rtc_host {
        let url = format!("https://{rtc_host}");
        client.insert(RTC.to_owned(), json!([{"type": "livekit", "livekit_service_url": url}]));
    }
    let mut server = carried("server");
    server.insert("m.server".to_owned(), format!("{host}:443").into());
    let mut merged = Documents::from([
        ("client".to_owned(), Value::from(client)),
        ("server".to_owned(), server.into()),
    ]);
    if let Some(support) = old.get("support") {
        merged.insert("support".to_owned(), support.clone());
    }
    merged
}

/// The value of `wellKnownDelegation.additional`: JSON texts that the chart merges into its own documents. Keys that
/// the chart sets itself are left out, since they would have no effect.
pub(crate) fn additional(documents: &Documents, rtc_host: Option<&str>) -> BTreeMap<&'static str, String> {
    let without = |name: &str, own: &[&str]| {
        let mut document: Map<String, Value> = documents
            .get(name)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        document.retain(|key, _| !own.contains(&key.as_str()));
        Value::from(document).to_string()
    };
    let of_client: &[&str] = if rtc_host.is_some() {
        &["m.homeserver", RTC]
    } else {
        &["m.homeserver"]
    };
    BTreeMap::from([
        ("client", without("client", of_client)),
        ("server", without("server", &["m.server"])),
        ("support", without("support", &[])),
    ])
}

/// The hosts that `m.homeserver` and `m.server` name.
pub(crate) fn hosts(documents: &Documents) -> BTreeSet<String> {
    let text = |name: &str, pointer: &str| documents.get(name)?.pointer(pointer)?.as_str();
    let client = text("client", "/m.homeserver/base_url").and_then(host_of_url);
    let server = text("server", "/m.server").map(|server| host_and_port(server).0);
    client.into_iter().chain(server).map(str::to_lowercase).collect()
}

/// The keys of the new documents that still name an old host, as `client: KEY`.
pub(crate) fn naming(documents: &Documents, hosts: &BTreeSet<String>) -> Vec<String> {
    let names = |value: &Value| hosts.iter().any(|host| mentions(value, host));
    documents
        .iter()
        .filter_map(|(name, document)| Some((name, document.as_object()?)))
        .flat_map(|(name, document)| {
            let keys = document.iter().filter(|(_, value)| names(value));
            keys.map(move |(key, _)| format!("{name}: {key}"))
        })
        .collect()
}

fn mentions(value: &Value, host: &str) -> bool {
    match value {
        Value::String(text) => {
            let of_url = host_of_url(text).unwrap_or_else(|| host_and_port(text).0);
            of_url.eq_ignore_ascii_case(host)
        }
        Value::Array(all) => all.iter().any(|value| mentions(value, host)),
        Value::Object(all) => all.values().any(|value| mentions(value, host)),
        _ => false,
    }
}

/// The keys in which Helm would find a template, as `client: KEY`. The chart runs these documents through `tpl` three
/// times and decodes JSON in between, so that no escape for the braces survives.
pub(crate) fn templates(documents: &Documents) -> Vec<String> {
    fn has(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains("{{"),
            Value::Array(all) => all.iter().any(has),
            Value::Object(all) => all.iter().any(|(key, value)| key.contains("{{") || has(value)),
            _ => false,
        }
    }
    documents
        .iter()
        .filter_map(|(name, document)| Some((name, document.as_object()?)))
        .flat_map(|(name, document)| {
            let keys = document.iter().filter(|(key, value)| key.contains("{{") || has(value));
            keys.map(move |(key, _)| format!("{name}: {key}"))
        })
        .collect()
}

/// The first key of `wanted` that `is` lacks or has with another value. Additional keys in `is` are accepted.
pub(crate) fn lacks(is: &Value, wanted: &Value) -> Option<String> {
    let wanted = wanted.as_object()?;
    wanted.iter().find_map(|(key, value)| match is.get(key) {
        Some(found) if found == value => None,
        Some(found) => Some(format!("{key} is {found}, not {value}")),
        None => Some(format!("it lacks {key}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Documents {
        Documents::from([
            (
                "client".to_owned(),
                json!({
                    "m.homeserver": {"base_url": "https://old.example.org/", "note": 1},
                    "m.identity_server": {"base_url": "https://vector.im"},
                    "m.tile_server": {"map_style_url": "https://old.example.org/style.json"},
                    "org.matrix.msc4143.rtc_foci": [{"type": "livekit", "livekit_service_url": "https://OLD.example.org:8443/rtc"}],
                    "io.element.e2ee": {"default": false},
                }),
            ),
            ("server".to_owned(), json!({"m.server": "fed.example.org:8448"})),
            ("support".to_owned(), json!({"contacts": []})),
        ])
    }

    #[test]
    fn what_the_old_documents_carried_is_carried_on() {
        let new = merged(&old(), "matrix.example.org", None);
        assert_eq!(
            new["client"]["m.homeserver"],
            json!({"base_url": "https://matrix.example.org", "note": 1})
        );
        assert_eq!(new["client"]["m.identity_server"], old()["client"]["m.identity_server"]);
        assert_eq!(new["client"]["io.element.e2ee"], json!({"default": false}));
        assert_eq!(new["server"], json!({"m.server": "matrix.example.org:443"}));
        assert_eq!(new["support"], json!({"contacts": []}));
        let hosts = hosts(&old());
        assert_eq!(hosts.iter().collect::<Vec<_>>(), ["fed.example.org", "old.example.org"]);
        assert_eq!(
            naming(&new, &hosts),
            ["client: m.tile_server", "client: org.matrix.msc4143.rtc_foci"]
        );

        let new = merged(&old(), "matrix.example.org", Some("mrtc.example.org"));
        assert_eq!(
            new["client"][RTC],
            json!([{"type": "livekit", "livekit_service_url": "https://mrtc.example.org"}])
        );
        assert_eq!(naming(&new, &hosts), ["client: m.tile_server"]);
        let nothing = merged(&Documents::new(), "matrix.example.org", None);
        assert_eq!(nothing.keys().collect::<Vec<_>>(), ["client", "server"]);
    }

    #[test]
    fn the_chart_adds_only_what_it_does_not_know() {
        let new = merged(&old(), "matrix.example.org", Some("mrtc.example.org"));
        let additional = additional(&new, Some("mrtc.example.org"));
        let client: Value = serde_json::from_str(&additional["client"]).expect("it is JSON");
        let keys: Vec<&String> = client.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["io.element.e2ee", "m.identity_server", "m.tile_server"]);
        assert_eq!(additional["server"], "{}");
        assert_eq!(additional["support"], r#"{"contacts":[]}"#);
    }

    #[test]
    fn a_template_is_found_wherever_it_stands() {
        let found = |client: &str| {
            let client = serde_json::from_str(client).expect("it is JSON");
            templates(&Documents::from([("client".to_owned(), client)]))
        };
        assert!(templates(&old()).is_empty());
        assert!(found(r#"{"a": {"b": [{"c": 1}]}, "d": "{ {", "e": "}}"}"#).is_empty());
        assert_eq!(found(r#"{"a": "{{ .Release.Name }}"}"#), ["client: a"]);
        assert!(found(r#"{"a": [{"b": "\\u007b\\u007b 1 }}"}]}"#).is_empty());
        assert_eq!(found(r#"{"a": [{"b": "\u007b{ 1 }}"}]}"#), ["client: a"]);
        assert_eq!(found(r#"{"a": [{"b": "\u007b\u007b 1 }}"}]}"#), ["client: a"]);
        assert_eq!(found(r#"{"a": {"{{ b }}": 1}, "{{": 2}"#), ["client: a", "client: {{"]);
    }

    #[test]
    fn a_document_with_more_keys_is_as_good() {
        let wanted = json!({"m.server": "a:443"});
        assert_eq!(lacks(&json!({"m.server": "a:443", "more": 1}), &wanted), None);
        assert_eq!(
            lacks(&json!({"m.server": "b:443"}), &wanted).as_deref(),
            Some(r#"m.server is "b:443", not "a:443""#)
        );
        assert_eq!(lacks(&json!({}), &wanted).as_deref(), Some("it lacks m.server"));
    }
}
