//! Workers: the tasks that the configuration assigns to them, as ESS's `synapse.workers`.

use ess_synapse::Config;
use ess_synapse::yaml::Value;

use crate::yaml::Node;

/// Options that name the workers of a task, ESS's type of worker for the task, and whether ESS allows several replicas.
const TASKS: &[(&str, &str, bool)] = &[
    ("stream_writers.account_data", "account-data", false),
    ("notify_appservices_from_worker", "appservice", false),
    ("run_background_tasks_on", "background", false),
    ("stream_writers.device_lists", "device-lists", true),
    ("stream_writers.to_device", "encryption", false),
    ("stream_writers.events", "event-persister", true),
    ("federation_sender_instances", "federation-sender", true),
    ("media_instance_running_background_jobs", "media-repository", false),
    ("stream_writers.presence", "presence-writer", false),
    ("stream_writers.push_rules", "push-rules", false),
    ("pusher_instances", "pusher", true),
    ("stream_writers.receipts", "receipts", true),
    ("stream_writers.typing", "typing-persister", false),
    ("update_user_directory_from_worker", "user-dir", false),
];

/// `synapse.workers`, if the configuration assigns tasks to workers, and a note on what the user must decide.
pub(crate) fn workers(config: &Config) -> (Option<Node>, Option<String>) {
    let mut known = vec!["main", "master"];
    let mut types = Vec::new();
    for (option, name, several) in TASKS {
        let instances: Vec<&str> = instances(config, option)
            .into_iter()
            .filter(|name| !["main", "master"].contains(name))
            .collect();
        if instances.is_empty() {
            continue;
        }
        let mut worker = vec![("enabled", Node::Bool(true))];
        worker.extend(several.then(|| ("replicas", Node::Number(instances.len().to_string()))));
        types.push((*name, Node::map(worker)));
        known.extend(instances);
    }
    let map = config.get("instance_map").and_then(Value::as_map);
    let others: Vec<&str> = map
        .into_iter()
        .flat_map(ess_synapse::yaml::Map::iter)
        .map(|(name, _)| name.text.as_str())
        .filter(|name| !known.contains(name))
        .collect();
    let has_workers = !types.is_empty() || !others.is_empty();
    let note = has_workers.then(|| {
        let others = match others.join(", ") {
            none if none.is_empty() => String::new(),
            some => format!(" (possibly to {})", some.escape_debug()),
        };
        format!(
            "the requests that the reverse proxy routes to workers{others} are not in Synapse's configuration: see \
             synapse.workers for client-reader, synchrotron, federation-inbound and similar types"
        )
    });
    ((!types.is_empty()).then(|| Node::map(types)), note)
}

/// The names of an option that contains one name or a list.
fn instances<'a>(config: &'a Config, option: &str) -> Vec<&'a str> {
    match config.get(option) {
        Some(Value::List(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(value) => value.as_str().into_iter().collect(),
        None => Vec::new(),
    }
}
