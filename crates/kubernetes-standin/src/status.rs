//! Errors of the API as `Status` objects.
//!
//! Source of codes, reasons and messages: `staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go` of
//! kubernetes/kubernetes.

use serde_json::{Value, json};

use crate::resources::Resource;

/// A failure, as the server answers it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Reason for programs, for example `NotFound`.
    pub reason: &'static str,
    /// Message for people.
    pub message: String,
    /// Object of the failure and its causes.
    pub details: Value,
}

/// A violated rule of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `spec.amiFamily`.
    pub field: String,
    /// Kind of the violation, for example `FieldValueInvalid`.
    pub kind: &'static str,
    /// Message without the field.
    pub message: String,
}

impl Status {
    /// Returns the body of the answer.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        })
    }

    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: json!({}),
        }
    }

    fn of(mut self, resource: &Resource, name: Option<&str>) -> Self {
        self.details = json!({"kind": resource.plural});
        if !resource.group.is_empty() {
            self.details["group"] = json!(resource.group);
        }
        if let Some(name) = name {
            self.details["name"] = json!(name);
        }
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).of(resource, Some(name))
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).of(resource, Some(name))
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, cause: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {cause}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).of(resource, Some(name))
    }

    pub(crate) fn method_not_allowed(resource: &Resource) -> Self {
        let message = format!(
            "the server does not allow this method on the requested resource ({})",
            resource.qualified()
        );
        Self::new(405, "MethodNotAllowed", message).of(resource, None)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// Returns the refusal of RBAC. Source of the cause: `ForbiddenErrorMessage` in
    /// `staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`.
    pub(crate) fn forbidden(resource: &Resource, name: Option<&str>, verb: &str) -> Self {
        let object = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let message = format!(
            "{}{object} is forbidden: User \"prepull\" cannot {verb} resource \"{}\" in API group \"{}\" at the cluster scope",
            resource.qualified(),
            resource.plural,
            resource.group
        );
        Self::new(403, "Forbidden", message).of(resource, name)
    }

    /// Returns the answer to a JSON patch that does not apply, for example because a `test` failed. It has no cause,
    /// unlike an object that breaks a rule.
    ///
    /// Source: `applyJSPatch` in `staging/src/k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, which calls
    /// `NewGenericServerResponse` with 422 and drops the message of the library.
    pub(crate) fn patch_does_not_apply() -> Self {
        Self::new(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, violations: &[Violation]) -> Self {
        let texts: Vec<String> = violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.message))
            .collect();
        let text = match &texts[..] {
            [only] => only.clone(),
            _ => format!("[{}]", texts.join(", ")),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut status = Self::new(
            422,
            "Invalid",
            format!("{kind} \"{name}\" is invalid: {text}"),
        )
        .of(resource, Some(name));
        status.details["kind"] = json!(resource.kind);
        status.details["causes"] = violations
            .iter()
            .map(|violation| {
                json!({"reason": violation.kind, "message": violation.message, "field": violation.field})
            })
            .collect();
        status
    }
}
