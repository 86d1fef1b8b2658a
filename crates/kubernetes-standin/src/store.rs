//! Objects, and the rules of their changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::resources::{Resource, Target};
use crate::rules;
use crate::selectors::{fields_match, labels_match};
use crate::status::{Status, Violation};

/// Cause of a conflict. Source: `OptimisticLockErrorMsg` in
/// `staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go` of kubernetes/kubernetes.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Plural name, namespace and name of an object.
type Key = (&'static str, String, String);

/// Whether a change is stored, or only checked (`dryRun=All`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persist {
    Store,
    DryRun,
}

/// A replacement of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    Put,
    Patch,
}

/// The objects of a server.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Value>,
    /// Resource version of the last change. Like etcd's revision, it counts the changes of all objects.
    version: u64,
    created: u64,
}

impl Store {
    fn key(target: &Target) -> Result<Key, Status> {
        Ok((
            target.resource.plural,
            target.namespace.clone().unwrap_or_default(),
            target.name()?.to_owned(),
        ))
    }

    /// Returns an object.
    pub(crate) fn get(&self, target: &Target) -> Result<Value, Status> {
        let key = Self::key(target)?;
        self.objects
            .get(&key)
            .cloned()
            .ok_or_else(|| Status::not_found(&target.resource, &key.2))
    }

    /// Returns the objects that match the selectors.
    pub(crate) fn list(
        &self,
        target: &Target,
        labels: &str,
        fields: &str,
    ) -> Result<Value, Status> {
        let resource = &target.resource;
        let mut items = Vec::new();
        for ((plural, namespace, _), object) in &self.objects {
            let here = target
                .namespace
                .as_ref()
                .is_none_or(|wanted| wanted == namespace);
            if *plural == resource.plural
                && here
                && labels_match(labels, object)
                && fields_match(fields, resource, object)?
            {
                items.push(object.clone());
            }
        }
        // An unsupported field is an error, also without objects.
        fields_match(fields, resource, &Value::Null)?;
        Ok(json!({
            "apiVersion": resource.api_version(),
            "kind": format!("{}List", resource.kind),
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": items,
        }))
    }

    /// Creates an object.
    pub(crate) fn create(
        &mut self,
        target: &Target,
        mut object: Value,
        persist: Persist,
    ) -> Result<Value, Status> {
        let resource = target.resource;
        check_type(&resource, &mut object)?;
        let name = self.new_name(&resource, &object)?;
        let namespace = target.namespace.clone().unwrap_or_default();
        let key = (resource.plural, namespace.clone(), name.clone());
        if self.objects.contains_key(&key) {
            return Err(Status::already_exists(&resource, &name));
        }
        if resource.custom {
            // Source: `PrepareForCreate` in
            // `staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource/strategy.go`. The real server
            // also drops the status of a new pod. Here a test creates pods with one request.
            object
                .as_object_mut()
                .expect("check_type accepts only objects")
                .remove("status");
        }
        check_rules(&resource, &name, &object)?;
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name);
        if resource.namespaced {
            metadata["namespace"] = json!(namespace);
        }
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.created + 1));
        metadata["creationTimestamp"] = json!(now());
        metadata["resourceVersion"] = json!((self.version + 1).to_string());
        if resource.custom {
            metadata["generation"] = json!(1);
        }
        if persist == Persist::Store {
            self.created += 1;
            self.version += 1;
            self.objects.insert(key, object.clone());
        }
        Ok(object)
    }

    fn new_name(&self, resource: &Resource, object: &Value) -> Result<String, Status> {
        let given = |field: &str| {
            object["metadata"][field]
                .as_str()
                .filter(|name| !name.is_empty())
        };
        if let Some(name) = given("name") {
            return Ok(name.to_owned());
        }
        // The real server appends five random characters.
        if let Some(prefix) = given("generateName") {
            return Ok(format!("{prefix}{:05}", self.created));
        }
        let violation = Violation {
            field: "metadata.name".to_owned(),
            kind: "FieldValueRequired",
            message: "Required value: name or generateName is required".to_owned(),
        };
        Err(Status::invalid(resource, "", &[violation]))
    }

    /// Replaces an object, or its status.
    pub(crate) fn update(
        &mut self,
        target: &Target,
        mut new: Value,
        update: Update,
        persist: Persist,
    ) -> Result<Value, Status> {
        let resource = target.resource;
        let key = Self::key(target)?;
        let name = key.2.clone();
        let old = self.get(target)?;
        check_type(&resource, &mut new)?;
        check_identity(&resource, &name, &old, &new, update)?;
        // The server owns these fields. A client that sends others does not change them.
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "namespace",
            "resourceVersion",
        ] {
            match old["metadata"].get(field) {
                Some(value) => new["metadata"][field] = value.clone(),
                None => {
                    new["metadata"]
                        .as_object_mut()
                        .expect("check_type creates the metadata")
                        .remove(field);
                }
            }
        }
        // The main resource ignores changes of the status, and the status subresource ignores all others. Source:
        // <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#status-subresource>.
        let mut new = if target.status {
            with_status(old.clone(), new.get("status"))
        } else if resource.has_status() {
            with_status(new, old.get("status"))
        } else {
            new
        };
        // Every change outside of the metadata increases the generation. The status is the same here, except in a
        // change of the status, which does not increase it. Source: `PrepareForUpdate` in strategy.go and
        // status_strategy.go of `staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource`.
        if resource.custom && !target.status && without_metadata(&old) != without_metadata(&new) {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
            new["metadata"]["generation"] = json!(generation + 1);
        }
        check_rules(&resource, &name, &new)?;
        // The server does not write an object without a change, so it keeps its resource version. Source:
        // `GuaranteedUpdate` in `staging/src/k8s.io/apiserver/pkg/storage/etcd3/store.go`.
        if new == old {
            return Ok(old);
        }
        new["metadata"]["resourceVersion"] = json!((self.version + 1).to_string());
        if persist == Persist::Store {
            self.version += 1;
            // The object goes with its last finalizer. Source:
            // <https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/>.
            if new["metadata"].get("deletionTimestamp").is_some() && !has_finalizers(&new) {
                self.objects.remove(&key);
            } else {
                self.objects.insert(key, new.clone());
            }
        }
        Ok(new)
    }

    /// Deletes an object, or marks it as deleted if it has finalizers.
    pub(crate) fn delete(&mut self, target: &Target, persist: Persist) -> Result<Value, Status> {
        let key = Self::key(target)?;
        let mut object = self.get(target)?;
        if persist == Persist::DryRun {
            return Ok(object);
        }
        if has_finalizers(&object) {
            if object["metadata"].get("deletionTimestamp").is_none() {
                self.version += 1;
                let metadata = &mut object["metadata"];
                metadata["deletionTimestamp"] = json!(now());
                metadata["deletionGracePeriodSeconds"] = json!(0);
                metadata["resourceVersion"] = json!(self.version.to_string());
                // Source: `markAsDeleting` in `staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go`.
                if let Some(generation) = metadata["generation"].as_u64() {
                    metadata["generation"] = json!(generation + 1);
                }
                self.objects.insert(key, object.clone());
            }
        } else {
            self.version += 1;
            self.objects.remove(&key);
        }
        Ok(object)
    }
}

/// Checks `apiVersion` and `kind`, and adds empty metadata.
fn check_type(resource: &Resource, object: &mut Value) -> Result<(), Status> {
    let api_version = resource.api_version();
    let fields = object
        .as_object_mut()
        .ok_or_else(|| Status::bad_request("the object is not a JSON object"))?;
    for (field, expected) in [
        ("apiVersion", api_version.as_str()),
        ("kind", resource.kind),
    ] {
        let given = fields
            .entry(field)
            .or_insert_with(|| json!(expected))
            .as_str()
            .unwrap_or_default();
        if given != expected {
            return Err(Status::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({expected})"
            )));
        }
    }
    let metadata = fields
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_object() {
        Ok(())
    } else {
        Err(Status::bad_request("metadata is not a JSON object"))
    }
}

/// Checks the name, the resource version and the UID of a replacement.
///
/// Source: `Update` in `staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go`. Custom resources do not
/// allow an update without a resource version (`AllowUnconditionalUpdate` in their strategy.go). A patch starts from
/// the stored object, so it has the current version, unless it sets another one.
fn check_identity(
    resource: &Resource,
    name: &str,
    old: &Value,
    new: &Value,
    update: Update,
) -> Result<(), Status> {
    let given = new["metadata"]["name"].as_str().unwrap_or_default();
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let version = new["metadata"]["resourceVersion"].as_str();
    match version.filter(|version| !version.is_empty()) {
        None if resource.custom && update == Update::Put => {
            let violation = Violation {
                field: "metadata.resourceVersion".to_owned(),
                kind: "FieldValueInvalid",
                message: "Invalid value: 0: must be specified for an update".to_owned(),
            };
            return Err(Status::invalid(resource, name, &[violation]));
        }
        Some(version) if Some(version) != old["metadata"]["resourceVersion"].as_str() => {
            return Err(Status::conflict(resource, name, MODIFIED));
        }
        _ => {}
    }
    let uids = (&new["metadata"]["uid"], &old["metadata"]["uid"]);
    if let (Value::String(given), Value::String(stored)) = uids
        && given != stored
    {
        let cause = format!(
            "Precondition failed: UID in precondition: {given}, UID in object meta: {stored}"
        );
        return Err(Status::conflict(resource, name, &cause));
    }
    Ok(())
}

fn check_rules(resource: &Resource, name: &str, object: &Value) -> Result<(), Status> {
    let violations = match resource.kind {
        "EC2NodeClass" => rules::violations(object),
        _ => Vec::new(),
    };
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(resource, name, &violations))
    }
}

fn with_status(mut object: Value, status: Option<&Value>) -> Value {
    let fields = object
        .as_object_mut()
        .expect("check_type accepts only objects");
    match status {
        Some(status) => fields.insert("status".to_owned(), status.clone()),
        None => fields.remove("status"),
    };
    object
}

fn without_metadata(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
    }
    object
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty())
}

/// Returns the time in Kubernetes' format, which has seconds.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
