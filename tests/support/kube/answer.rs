//! Responses to requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Bytes;

use super::store::{RESOURCES, Store, merge, selects};
use super::{Effect, State, TOKEN, USER, query, streams};

pub(super) type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

pub(super) fn whole(status: StatusCode, body: &Value) -> Response<Body> {
    let bytes = Bytes::from(body.to_string());
    let mut response = Response::new(lines(stream::once(async { bytes }).boxed()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn lines(of: BoxStream<'static, Bytes>) -> Body {
    StreamBody::new(of.map(|bytes| Ok(Frame::data(bytes))).boxed())
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    whole(StatusCode::from_u16(code).unwrap(), &body)
}

fn done(object: &Value) -> Response<Body> {
    whole(StatusCode::OK, object)
}

/// The parts of a request path.
struct Named {
    /// Group and version, such as `apps/v1`.
    group_version: String,
    namespace: Option<String>,
    resource: String,
    name: Option<String>,
    beneath: Option<String>,
}

fn named(path: &str) -> Option<Named> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group_version, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("v1".to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (resource, rest) = rest.split_first()?;
    Some(Named {
        group_version,
        namespace,
        resource: (*resource).to_owned(),
        name: rest.first().map(|name| (*name).to_owned()),
        beneath: rest.get(1).map(|beneath| (*beneath).to_owned()),
    })
}

pub(super) async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let shown = format!("{method} {}", uri.path_and_query().map_or("", |path| path.as_str()));
    state.requests.lock().unwrap().push(shown.clone());
    if request
        .headers()
        .get(AUTHORIZATION)
        .is_none_or(|value| value != &format!("Bearer {TOKEN}"))
    {
        return Ok(status(401, "Unauthorized", "Unauthorized"));
    }
    let is_stream = request.headers().contains_key(UPGRADE);
    let mut cut = None;
    match state.fault(method.as_str(), &shown) {
        Some(Effect::Status(code)) => return Ok(status(code, reason(code), "the stand-in was told to fail")),
        Some(Effect::Late(time)) => tokio::time::sleep(time).await,
        Some(Effect::CutAfter(bytes)) if is_stream => cut = Some(bytes),
        Some(Effect::CutAfter(_)) | None => {}
    }
    // Refuse formats other than JSON, such as the Protobuf of kubectl's reviews, rather than ignore what they contain.
    let is_json = |kind: &HeaderValue| kind.to_str().is_ok_and(|kind| kind.contains("json"));
    if !request.headers().get(CONTENT_TYPE).is_none_or(is_json) {
        return Ok(status(415, "UnsupportedMediaType", "the stand-in takes JSON"));
    }
    if let Some(found) = discovery(&state, uri.path()) {
        return Ok(done(&found));
    }
    let Some(named) = named(uri.path()) else {
        return Ok(status(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ));
    };
    if named.group_version.starts_with("auth") {
        let body = body(request).await;
        return Ok(whole(StatusCode::CREATED, &review(&state, &named, body)));
    }
    if !RESOURCES
        .iter()
        .any(|known| known.0 == named.group_version && known.1 == named.resource)
        || !state.store().serves(&named.group_version)
    {
        return Ok(status(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ));
    }
    if let Some(refused) = refused(&state, &method, &named, &uri, is_stream) {
        return Ok(refused);
    }
    Ok(match (method, named.name.clone(), named.beneath.as_deref()) {
        (Method::GET, Some(pod), Some(what @ ("exec" | "portforward"))) if is_stream => {
            let namespace = named.namespace.unwrap_or_default();
            streams::open(&state, &namespace, &pod, what == "exec", request, cut)
        }
        (Method::GET, None, None) => list(&state, &named, &uri),
        (Method::GET, Some(name), None) => match found(&state, &named, &name) {
            Some(object) => done(&object),
            None => not_found(&named, &name),
        },
        (Method::GET, Some(name), Some("scale")) => match found(&state, &named, &name) {
            Some(object) => done(&scale_of(&object)),
            None => not_found(&named, &name),
        },
        (Method::POST, None, None) => create(&state, &named, body(request).await),
        (Method::PATCH | Method::PUT, Some(name), beneath) => {
            let kind = request
                .headers()
                .get(CONTENT_TYPE)
                .map(|kind| kind.to_str().unwrap().to_owned());
            let is_patch = request.method() == Method::PATCH;
            let body = body(request).await;
            change(
                &state,
                &named,
                &name,
                beneath == Some("scale"),
                kind.as_deref().filter(|_| is_patch),
                &body,
            )
        }
        (Method::DELETE, Some(name), None) => {
            let namespace = named.namespace.clone().unwrap_or_default();
            match state.store().remove(&named.resource, &namespace, &name) {
                Some(_) => done(&json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})),
                None => not_found(&named, &name),
            }
        }
        _ => status(405, "MethodNotAllowed", "the stand-in does not do that"),
    })
}

fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    }
}

async fn body(request: Request<Incoming>) -> Value {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn found(state: &State, named: &Named, name: &str) -> Option<Value> {
    let namespace = named.namespace.as_deref().unwrap_or_default();
    state.store().named(&named.resource, namespace, name).cloned()
}

fn not_found(named: &Named, name: &str) -> Response<Body> {
    status(404, "NotFound", &format!("{} \"{name}\" not found", named.resource))
}

/// The discovery documents, which kubectl reads first.
fn discovery(state: &State, path: &str) -> Option<Value> {
    let versions = || {
        let mut versions: Vec<&str> = RESOURCES
            .iter()
            .map(|known| known.0)
            .filter(|version| state.store().serves(version))
            .collect();
        versions.extend(["authorization.k8s.io/v1", "authentication.k8s.io/v1"]);
        versions.dedup();
        versions
    };
    let group = |version: &str| {
        let (name, number) = version.split_once('/').unwrap();
        let version = json!({"groupVersion": version, "version": number});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let path = path.trim_end_matches('/');
    match path {
        "/version" => Some(json!({"major": "1", "minor": "32", "gitVersion": "v1.32.0-stand-in"})),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            let groups: Vec<Value> = versions()
                .into_iter()
                .filter(|version| *version != "v1")
                .map(group)
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        _ => {
            let version = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
            let version = versions().into_iter().find(|known| *known == version)?;
            let mut resources = Vec::new();
            for (_, plural, kind, beneath) in RESOURCES.iter().filter(|known| known.0 == version) {
                let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
                let singular = kind.to_lowercase();
                resources.push(
                    json!({"name": plural, "singularName": singular, "namespaced": true, "kind": kind, "verbs": verbs}),
                );
                for beneath in *beneath {
                    let (kind, group, version) = match *beneath {
                        "scale" => ("Scale", "autoscaling", "v1"),
                        _ => ("PodExecOptions", "", "v1"),
                    };
                    resources.push(json!({"name": format!("{plural}/{beneath}"), "singularName": "", "namespaced": true,
                        "kind": kind, "group": group, "version": version, "verbs": ["create", "get", "patch", "update"]}));
                }
            }
            Some(
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}),
            )
        }
    }
}

/// Answers access reviews (what the account has permission to do) and self-subject reviews (which account it is).
fn review(state: &State, named: &Named, mut review: Value) -> Value {
    review["status"] = match named.resource.as_str() {
        "selfsubjectaccessreviews" => {
            let asked = &review["spec"]["resourceAttributes"];
            let text = |name: &str| asked[name].as_str().unwrap_or_default();
            let resource = match text("subresource") {
                "" => text("resource").to_owned(),
                beneath => format!("{}/{beneath}", text("resource")),
            };
            json!({"allowed": state.allows(text("namespace"), text("verb"), text("group"), &resource)})
        }
        "selfsubjectrulesreviews" => json!({"incomplete": false, "nonResourceRules": [],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}),
        _ => json!({"userInfo": {"username": USER, "groups": ["system:authenticated"]}}),
    };
    review
}

fn refused(state: &State, method: &Method, named: &Named, uri: &hyper::Uri, is_stream: bool) -> Option<Response<Body>> {
    let watches = query(uri)
        .get("watch")
        .is_some_and(|watch| watch[0] != "false" && watch[0] != "0");
    let verbs: &[&str] = match (method, &named.name) {
        // A WebSocket stream is a GET; newer servers demand the permission to create as well.
        _ if is_stream => &["get", "create"],
        (&Method::GET, Some(_)) => &["get"],
        (&Method::GET, None) if watches => &["watch"],
        (&Method::GET, None) => &["list"],
        (&Method::POST, _) => &["create"],
        (&Method::PUT, _) => &["update"],
        (&Method::PATCH, _) => &["patch"],
        _ => &["delete"],
    };
    let group = named.group_version.split_once('/').map_or("", |(group, _)| group);
    let resource = match &named.beneath {
        Some(beneath) => format!("{}/{beneath}", named.resource),
        None => named.resource.clone(),
    };
    let namespace = named.namespace.as_deref().unwrap_or_default();
    let verb = verbs
        .iter()
        .find(|verb| !state.allows(namespace, verb, group, &resource))?;
    Some(status(
        403,
        "Forbidden",
        &format!(
            "{resource} is forbidden: User \"{USER}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" \
             in the namespace \"{namespace}\""
        ),
    ))
}

fn list(state: &Arc<State>, named: &Named, uri: &hyper::Uri) -> Response<Body> {
    let query = query(uri);
    let of = |name: &str| query.get(name).map(|values| values[0].clone()).unwrap_or_default();
    let (labels, fields, namespace) = (of("labelSelector"), of("fieldSelector"), named.namespace.clone());
    let fits = move |object: &Value| {
        let name = fields.strip_prefix("metadata.name=");
        namespace
            .as_ref()
            .is_none_or(|namespace| object["metadata"]["namespace"] == **namespace)
            && name.is_none_or(|name| object["metadata"]["name"] == *name)
            && selects(&labels, &object["metadata"]["labels"])
    };
    let watch = of("watch");
    if !watch.is_empty() && watch != "false" && watch != "0" {
        let since = of("resourceVersion").parse().unwrap_or(0);
        if of("sendInitialEvents") == "true" {
            let (first, since) = initial(&state.store(), named, &fits);
            return watching(Arc::clone(state), named.resource.clone(), since, first, fits);
        }
        return watching(Arc::clone(state), named.resource.clone(), since, Vec::new(), fits);
    }
    let store = state.store();
    let items: Vec<&Value> = store.all(&named.resource).filter(|object| fits(object)).collect();
    let kind = RESOURCES.iter().find(|known| known.1 == named.resource).unwrap().2;
    done(
        &json!({"kind": format!("{kind}List"), "apiVersion": named.group_version,
        "metadata": {"resourceVersion": store.version().to_string()}, "items": items}),
    )
}

/// Existing objects as events, and the bookmark that ends them (a streaming list).
fn initial(store: &Store, named: &Named, fits: &impl Fn(&Value) -> bool) -> (Vec<Bytes>, u64) {
    let there = store.all(&named.resource).filter(|object| fits(object));
    let mut events: Vec<Value> = there.map(|object| json!({"type": "ADDED", "object": object})).collect();
    let kind = RESOURCES.iter().find(|known| known.1 == named.resource).unwrap().2;
    events.push(
        json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": named.group_version, "metadata": {
        "resourceVersion": store.version().to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}),
    );
    let lines = events.iter().map(|event| Bytes::from(format!("{event}\n")));
    (lines.collect(), store.version())
}

/// Sends each change as a line until the client disconnects.
fn watching(
    state: Arc<State>,
    resource: String,
    since: u64,
    first: Vec<Bytes>,
    fits: impl Fn(&Value) -> bool + Send + 'static,
) -> Response<Body> {
    if let Some(Effect::Status(code)) = state.fault("WATCH", &resource) {
        let expired = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": reason(code), "code": code, "message": "too old resource version"}});
        let line = Bytes::from(format!("{expired}\n"));
        return Response::new(lines(stream::once(async { line }).boxed()));
    }
    let next = stream::unfold(
        (state, resource, since, fits),
        |(state, resource, since, fits)| async move {
            loop {
                let found = {
                    let store = state.store();
                    let mut newer = store
                        .events
                        .iter()
                        .filter(|event| event.0 > since && event.2 == resource && fits(&event.3));
                    newer
                        .next()
                        .map(|event| (event.0, json!({"type": event.1, "object": event.3})))
                };
                if let Some((version, event)) = found {
                    return Some((Bytes::from(format!("{event}\n")), (state, resource, version, fits)));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        },
    );
    let mut response = Response::new(lines(stream::iter(first).chain(next).boxed()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn create(state: &State, named: &Named, mut object: Value) -> Response<Body> {
    let known = RESOURCES.iter().find(|known| known.1 == named.resource).unwrap();
    object["apiVersion"] = known.0.into();
    object["kind"] = known.2.into();
    object["metadata"]["namespace"] = named.namespace.clone().into();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return status(422, "Invalid", "metadata.name is needed");
    }
    if found(state, named, &name).is_some() {
        return status(
            409,
            "AlreadyExists",
            &format!("{} \"{name}\" already exists", named.resource),
        );
    }
    whole(StatusCode::CREATED, &state.store().put(object))
}

fn change(state: &State, named: &Named, name: &str, scale: bool, patch: Option<&str>, body: &Value) -> Response<Body> {
    let namespace = named.namespace.as_deref().unwrap_or_default();
    let mut store = state.store();
    let Some(mut object) = store.named(&named.resource, namespace, name).cloned() else {
        return not_found(named, name);
    };
    let seen = &body["metadata"]["resourceVersion"];
    if !seen.is_null() && *seen != object["metadata"]["resourceVersion"] {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified",
            named.resource
        );
        return status(409, "Conflict", &message);
    }
    if patch.is_some_and(|kind| kind.contains("json-patch") || kind.contains("apply-patch")) {
        return status(415, "UnsupportedMediaType", "the stand-in takes merge patches");
    }
    if scale {
        object["spec"]["replicas"] = body["spec"]["replicas"].clone();
    } else if patch.is_some() {
        merge(&mut object, body);
    } else {
        object = body.clone();
    }
    let object = store.put(object);
    done(&if scale { scale_of(&object) } else { object })
}

fn scale_of(object: &Value) -> Value {
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": object["metadata"],
        "spec": {"replicas": replicas}, "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)}})
}
