//! The change of one class: a JSON patch and its inverse.

use std::fmt;

use json_patch::Patch;
use kube::core::DynamicObject;
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{GiB, SnapshotId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::annotations::GIVEN;
use crate::class::NodeClass;

/// The change of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Kind of the change.
    pub kind: ChangeKind,
    /// Snapshot before, as the class has it.
    pub from: Option<String>,
    /// Snapshot after.
    pub to: SnapshotId,
    /// Changed fields, for people.
    pub fields: Vec<FieldChange>,
    /// JSON patch with tests of everything that it relies on.
    pub patch: Patch,
    /// JSON patch that returns to the state before. Its tests fail if another client has changed a value of `patch`.
    pub inverse: Patch,
}

/// Kind of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// To the snapshot of the channel.
    Update,
    /// Away from a rejected snapshot.
    RollBack,
}

/// A changed field of the data volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Name of the field below `ebs`.
    pub field: &'static str,
    /// Value before, or `None` if the field was absent.
    pub from: Option<String>,
    /// Value after.
    pub to: String,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.as_deref().unwrap_or("none");
        write!(f, "{}: {from} -> {}", self.field, self.to)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(FieldChange::to_string).collect();
        f.write_str(&fields.join(", "))
    }
}

impl Change {
    /// Returns the change of the mapping at `index` to `snapshot`. `size` is the new size if the volume is too small.
    pub(crate) fn new(
        class: &NodeClass,
        index: usize,
        snapshot: &SnapshotId,
        size: Option<GiB>,
        kind: ChangeKind,
    ) -> Self {
        let mapping = &class.spec["blockDeviceMappings"][index];
        let before = |field: &str| mapping["ebs"].get(field).map(text);
        let mut fields = Vec::new();
        let from = before("snapshotID");
        if from.as_deref() != Some(snapshot.as_str()) {
            fields.push(FieldChange {
                field: "snapshotID",
                from: from.clone(),
                to: snapshot.to_string(),
            });
        }
        if let Some(size) = size {
            fields.push(FieldChange {
                field: "volumeSize",
                from: before("volumeSize"),
                // The CRD allows only Gi, G, Ti and T.
                to: format!("{}Gi", size.0),
            });
        }
        let path = format!("/spec/blockDeviceMappings/{index}");
        let mut forward = opt_in_tests(class);
        let device =
            json!({"op": "test", "path": format!("{path}/deviceName"), "value": DATA_DEVICE});
        forward.push(device.clone());
        let mut inverse = vec![device];
        match mapping.get("ebs") {
            Some(ebs) => change_ebs(
                &mut forward,
                &mut inverse,
                &path,
                ebs,
                from.as_deref(),
                &fields,
            ),
            None => add_ebs(&mut forward, &mut inverse, &path, mapping, &fields),
        }
        Self {
            kind,
            from,
            to: snapshot.clone(),
            fields,
            patch: operations(forward),
            inverse: operations(inverse),
        }
    }

    /// Returns whether the data volume of a class has the values of the change.
    pub(crate) fn is_in(&self, object: &DynamicObject) -> bool {
        let volume = data_volume(object);
        volume.is_some_and(|volume| volume["ebs"]["snapshotID"] == self.to.as_str())
            && self.fields_are(volume, |field| Some(field.to.as_str()))
    }

    /// Returns whether the data volume of a class has the values from before the change.
    pub(crate) fn is_undone_in(&self, object: &DynamicObject) -> bool {
        self.fields_are(data_volume(object), |field| field.from.as_deref())
    }

    fn fields_are<'a>(
        &'a self,
        volume: Option<&Value>,
        expected: impl Fn(&'a FieldChange) -> Option<&'a str>,
    ) -> bool {
        volume.is_some_and(|volume| {
            self.fields
                .iter()
                .all(|field| volume["ebs"][field.field].as_str() == expected(field))
        })
    }
}

fn data_volume(object: &DynamicObject) -> Option<&Value> {
    let mappings = object.data["spec"]["blockDeviceMappings"].as_array()?;
    mappings
        .iter()
        .find(|mapping| mapping["deviceName"] == DATA_DEVICE)
}

/// Returns tests of the annotations that the class had. A class whose owner has opted out since the list is left alone,
/// and so is one that now follows another channel. RFC 6902 cannot test that an annotation is absent.
fn opt_in_tests(class: &NodeClass) -> Vec<Value> {
    let test = |name: &str| {
        let value = class.annotations.get(name)?;
        // RFC 6901 writes `/` in a name as `~1`.
        let path = format!("/metadata/annotations/{}", name.replace('/', "~1"));
        Some(json!({"op": "test", "path": path, "value": value}))
    };
    GIVEN.into_iter().filter_map(test).collect()
}

fn change_ebs(
    forward: &mut Vec<Value>,
    inverse: &mut Vec<Value>,
    path: &str,
    ebs: &Value,
    snapshot: Option<&str>,
    fields: &[FieldChange],
) {
    let at = |field: &str| format!("{path}/ebs/{field}");
    // RFC 6902 cannot test that a field is absent. The test of the whole object does.
    if fields.iter().any(|field| field.from.is_none()) {
        forward.push(json!({"op": "test", "path": format!("{path}/ebs"), "value": ebs}));
    } else {
        if let Some(snapshot) = snapshot {
            forward.push(json!({"op": "test", "path": at("snapshotID"), "value": snapshot}));
        }
        for field in fields.iter().filter(|field| field.field != "snapshotID") {
            forward.push(json!({"op": "test", "path": at(field.field), "value": field.from}));
        }
    }
    for field in fields {
        let path = at(field.field);
        inverse.push(json!({"op": "test", "path": path, "value": field.to}));
    }
    for field in fields {
        let path = at(field.field);
        let op = if field.from.is_some() {
            "replace"
        } else {
            "add"
        };
        forward.push(json!({"op": op, "path": path, "value": field.to}));
        inverse.push(match &field.from {
            Some(value) => json!({"op": "replace", "path": path, "value": value}),
            None => json!({"op": "remove", "path": path}),
        });
    }
}

/// Adds `ebs` to a mapping without it. Such a mapping gets Karpenter's defaults for a volume.
fn add_ebs(
    forward: &mut Vec<Value>,
    inverse: &mut Vec<Value>,
    path: &str,
    mapping: &Value,
    fields: &[FieldChange],
) {
    let ebs: serde_json::Map<String, Value> = fields
        .iter()
        .map(|field| (field.field.to_owned(), json!(field.to)))
        .collect();
    forward.push(json!({"op": "test", "path": path, "value": mapping}));
    forward.push(json!({"op": "add", "path": format!("{path}/ebs"), "value": ebs}));
    inverse.push(json!({"op": "test", "path": format!("{path}/ebs"), "value": ebs}));
    inverse.push(json!({"op": "remove", "path": format!("{path}/ebs")}));
}

fn operations(operations: Vec<Value>) -> Patch {
    serde_json::from_value(Value::Array(operations))
        .expect("all operations above are operations of RFC 6902")
}

/// Returns the text of a field. The CRD declares all of them as strings.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
