//! Objects of the Kubernetes API, compared with the types of k8s-openapi.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Fails unless an object survives a round trip through the type of k8s-openapi, which drops unknown fields.
#[track_caller]
pub(crate) fn is_of<T: Serialize + DeserializeOwned>(object: &Value) {
    let read: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    let mut again = serde_json::to_value(&read).unwrap();
    // The types also write empty values that can be omitted.
    keep_only(&mut again, object);
    assert_eq!(again, *object);
}

/// Removes values that are empty in one object and absent in the other.
fn keep_only(value: &mut Value, wanted: &Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                !wanted[name].is_null() || !(value.is_null() || *value == json!({}) || *value == json!([]))
            });
            for (name, value) in fields {
                keep_only(value, &wanted[name.as_str()]);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter_mut().enumerate() {
                keep_only(item, &wanted[number]);
            }
        }
        _ => {}
    }
}
