//! From a request to its answer, without HTTP.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use json_patch::Patch;
use serde_json::Value;

use crate::fault::{Fault, FaultReply};
use crate::karpenter::Karpenter;
use crate::resources::{self, Target};
use crate::server::Request;
use crate::status::Status;
use crate::store::{Persist, Store, Update};

/// Text of the answer to an unknown path. The answer has no `Status`. Source: `http.NotFound` of Go. The API server
/// calls it for paths without a handler, for example those of a CRD that is not installed.
const PAGE_NOT_FOUND: &str = "404 page not found\n";

/// Everything that the server knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    store: Mutex<Store>,
    pub(crate) karpenter: Mutex<Karpenter>,
    pub(crate) faults: Mutex<Vec<Fault>>,
    pub(crate) uninstalled: Mutex<BTreeSet<String>>,
    pub(crate) requests: Mutex<Vec<Request>>,
}

/// A request without its transport.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
}

/// An answer without its transport.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answered {
    Json(u16, Value),
    Text(u16, String),
}

/// Whether the client receives the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Sent,
    /// The server closes the connection instead.
    Lost,
}

/// Locks `mutex`. A test that panicked has no effect on the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call<'_> {
    /// Returns a parameter of the query.
    fn parameter(&self, name: &str) -> String {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| decoded(value))
            .unwrap_or_default()
    }

    /// Returns the verb of RBAC. Source: <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>.
    fn verb(&self, target: &Target) -> &'static str {
        match (self.method, &target.name) {
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", _) => "delete",
            _ => "unknown",
        }
    }
}

impl State {
    /// Answers a request of a client, with faults, and records it.
    pub(crate) fn serve(&self, call: &Call) -> (Answered, Delivery) {
        let target = resources::target(call.path);
        let fault = target.as_ref().and_then(|target| {
            let verb = call.verb(target);
            lock(&self.faults)
                .iter_mut()
                .find_map(|fault| fault.take(verb, target))
        });
        let answer = match (fault, &target) {
            (Some(fault), Some(target)) => match fault.status(call.verb(target), target) {
                Some(status) => Answered::Json(status.code, status.body()),
                None => self.answer(call),
            },
            _ => self.answer(call),
        };
        lock(&self.requests).push(Request {
            verb: target.as_ref().map_or("get", |target| call.verb(target)),
            path: call.path.to_owned(),
            query: decoded(call.query),
            code: match &answer {
                Answered::Json(code, _) | Answered::Text(code, _) => *code,
            },
        });
        let delivery = if fault == Some(FaultReply::Lost) {
            Delivery::Lost
        } else {
            Delivery::Sent
        };
        (answer, delivery)
    }

    /// Answers a request.
    pub(crate) fn answer(&self, call: &Call) -> Answered {
        let installed = |group: &str| !lock(&self.uninstalled).contains(group);
        if let Some(target) = resources::target(call.path)
            && installed(target.resource.group)
        {
            return match self.call(call, &target) {
                Ok((code, body)) => Answered::Json(code, body),
                Err(status) => Answered::Json(status.code, status.body()),
            };
        }
        match resources::discovery(call.path, installed) {
            Some(body) if call.method == "GET" => Answered::Json(200, body),
            _ => Answered::Text(404, PAGE_NOT_FOUND.to_owned()),
        }
    }

    fn call(&self, call: &Call, target: &Target) -> Result<(u16, Value), Status> {
        let mut store = lock(&self.store);
        let persist = if call.parameter("dryRun") == "All" {
            Persist::DryRun
        } else {
            Persist::Store
        };
        match (call.method, &target.name) {
            ("GET", Some(_)) => Ok((200, store.get(target)?)),
            ("GET", None) if call.parameter("watch").is_empty() => {
                let labels = call.parameter("labelSelector");
                let fields = call.parameter("fieldSelector");
                Ok((200, store.list(target, &labels, &fields)?))
            }
            ("POST", None) => Ok((201, store.create(target, json(call.body)?, persist)?)),
            ("PUT", Some(_)) => {
                let new = json(call.body)?;
                Ok((200, store.update(target, new, Update::Put, persist)?))
            }
            ("PATCH", Some(_)) => {
                let new = patched(store.get(target)?, call)?;
                Ok((200, store.update(target, new, Update::Patch, persist)?))
            }
            ("DELETE", Some(_)) if !target.status => Ok((200, store.delete(target, persist)?)),
            _ => Err(Status::method_not_allowed(&target.resource)),
        }
    }

    /// Lets Karpenter set the conditions of a node class.
    pub(crate) fn reconcile(&self, target: &Target) {
        let mut store = lock(&self.store);
        let Ok(mut class) = store.get(target) else {
            // Another client deleted the class.
            return;
        };
        if let Some(status) = lock(&self.karpenter).status_of(&class) {
            class["status"] = status;
            let target = Target {
                status: true,
                ..target.clone()
            };
            // The version comes from the same lock, so this cannot conflict.
            let _ = store.update(&target, class, Update::Patch, Persist::Store);
        }
    }
}

/// Applies a patch.
///
/// Source: `applyJSPatch` in `staging/src/k8s.io/apiserver/pkg/endpoints/handlers/patch.go` of kubernetes/kubernetes.
/// JSON patch: RFC 6902, JSON merge patch: RFC 7386. Custom resources do not support strategic merge patches.
fn patched(mut object: Value, call: &Call) -> Result<Value, Status> {
    let content_type = call
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    match content_type {
        "application/json-patch+json" => {
            let patch: Patch = serde_json::from_slice(call.body)
                .map_err(|error| Status::bad_request(error.to_string()))?;
            json_patch::patch(&mut object, &patch).map_err(|_| Status::patch_does_not_apply())?;
        }
        "application/merge-patch+json" => json_patch::merge(&mut object, &json(call.body)?),
        other => {
            let message = format!(
                "the body of the request was in an unknown format ({other}) - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json"
            );
            return Err(Status::new(415, "UnsupportedMediaType", message));
        }
    }
    Ok(object)
}

fn json(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|error| {
        Status::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    })
}

/// Decodes `%` and `+` of a query.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut index = 0;
    while index < bytes.len() {
        let escaped = bytes
            .get(index + 1..index + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[index], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                index += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
