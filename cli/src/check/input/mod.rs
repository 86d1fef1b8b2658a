//! Reads node classes, node pools, launch templates and workloads from YAML and JSON.
//!
//! The models hold only the fields that the conditions need. Unknown fields are fine, because the objects belong to others.

pub mod pool;
mod quantity;
pub mod template;
mod terraform;
pub mod tree;
pub mod user_data;
pub mod workload;

use std::collections::BTreeMap;
use std::fmt;

use pool::NodePool;
use template::{Dialect, NodeTemplate};
use tree::{At, Cursor, Node, Place};
use workload::Workload;

/// An input cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// There is no file, and standard input is a terminal.
    #[error(
        "nothing to check: no file was given, and standard input is a terminal. Name a file, or pipe one into the command"
    )]
    NoFile,
    /// The file or standard input cannot be read.
    #[error("cannot read `{file}`: {problem}. Name a file, or `-` for standard input")]
    Unreadable {
        /// File.
        file: String,
        /// Message of the operating system.
        problem: String,
    },
    /// The text is not YAML or JSON.
    #[error("cannot parse `{file}` at line {line}: {problem}. Correct it; render templates first")]
    Malformed {
        /// File.
        file: String,
        /// Line, from 1.
        line: u64,
        /// Defect.
        problem: String,
    },
    /// A field has a value of another type.
    #[error("cannot read {object} in `{file}` at line {line}: `{path}`: {problem}")]
    Field {
        /// File.
        file: String,
        /// Line, from 1.
        line: u64,
        /// Object.
        object: String,
        /// Path of the field.
        path: String,
        /// Defect and remedy.
        problem: String,
    },
    /// No node class has a name of `--only`.
    #[error(
        "cannot select `{names}`: the node classes and templates of the input are {known}. Give one of them to --only"
    )]
    NotSelected {
        /// Names of `--only`.
        names: String,
        /// Names in the input.
        known: String,
    },
    /// No input has an object for a check.
    #[error(
        "nothing to check: the input has no node class, node pool, launch template or workload, only {found}. Give the \
         output of `kubectl get ec2nodeclasses,nodepools -o yaml`, a launch template or `terraform show -json`"
    )]
    Unrecognised {
        /// Kinds of the input.
        found: String,
    },
}

/// An object of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace, if the object has one.
    pub namespace: Option<String>,
    /// File.
    pub file: String,
    /// First line.
    pub line: u64,
    /// Status, if the object has one.
    pub status: Option<Status>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The status of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Generation of the specification.
    pub generation: Option<u64>,
    /// Conditions.
    pub conditions: Vec<StatusCondition>,
}

/// A condition in the status of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCondition {
    /// Place.
    pub place: Place,
    /// Type, for example `Ready`.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Reason and message.
    pub message: String,
    /// Generation that the condition describes.
    pub generation: Option<u64>,
}

/// The objects of all inputs.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Karpenter's node classes, and launch templates.
    pub templates: Vec<NodeTemplate>,
    /// Node pools.
    pub pools: Vec<NodePool>,
    /// Node classes of EKS Auto Mode.
    pub auto_classes: Vec<Object>,
    /// Workloads.
    pub workloads: Vec<Workload>,
    /// Major and minor version of Karpenter, from its `Deployment`.
    pub karpenter: Option<(u16, u16)>,
    /// Kinds of other objects with their number.
    ignored: BTreeMap<String, usize>,
}

/// Returns the documents of `text`, which is YAML or JSON.
fn documents(file: &str, text: &str) -> Result<Vec<Node>, InputError> {
    let options = serde_saphyr::options! {
        // The inputs are the user's own, and the objects of a cluster exceed every default.
        budget: None,
        with_snippet: false,
        strict_booleans: true,
    };
    let error = match serde_saphyr::from_multiple_with_options(text, options) {
        Ok(documents) => return Ok(documents),
        Err(error) => error,
    };
    // JSON is nearly a subset of YAML. The exceptions are rare, and then only the lines are unknown.
    if text.trim_start().starts_with(['{', '['])
        && let Ok(json) = serde_json::from_str(text)
    {
        return Ok(vec![Node::from_json(&json, 1)]);
    }
    let line = error.location().map_or(1, |location| location.line());
    Err(InputError::Malformed {
        file: file.to_owned(),
        line,
        problem: without_position(&error.without_snippet().to_string()),
    })
}

/// Removes the position from a message, because the error has the line.
fn without_position(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end]
        .trim_end_matches([',', ':', ' ', '.'])
        .to_owned()
}

impl Inputs {
    /// Adds the objects in `text`, which is the content of `file`.
    ///
    /// # Errors
    /// If the text is neither YAML nor JSON, or a field has the wrong type.
    pub fn read(&mut self, file: &str, text: &str) -> Result<(), InputError> {
        for document in documents(file, text)? {
            self.add(file, &Cursor::root(&document))?;
        }
        Ok(())
    }

    /// Fails if there is nothing to check.
    ///
    /// # Errors
    /// [`InputError::Unrecognised`] with the kinds of the other objects.
    pub fn check_recognised(&self) -> Result<(), InputError> {
        let Self {
            templates,
            pools,
            auto_classes,
            workloads,
            karpenter: _,
            ignored,
        } = self;
        if templates.is_empty()
            && pools.is_empty()
            && auto_classes.is_empty()
            && workloads.is_empty()
        {
            let found: Vec<_> = ignored
                .iter()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            return Err(InputError::Unrecognised {
                found: if found.is_empty() {
                    "empty documents".to_owned()
                } else {
                    found.join(", ")
                },
            });
        }
        Ok(())
    }

    /// Whether `object` is one of `names`, or the pool of such a class. Without names, and for workloads, it always is.
    pub fn selects(&self, object: &Object, names: &[String]) -> bool {
        let has_name = |object: &Object| {
            // The name of a launch template has its version.
            let name = object.name.split(' ').next().unwrap_or_default();
            names.iter().any(|wanted| wanted == name)
        };
        let of_named_class = |pool: &NodePool| {
            let class = pool.class.as_ref();
            pool.object == *object && class.is_some_and(|class| names.contains(class))
        };
        names.is_empty()
            || Workload::pod_path(&object.kind).is_some()
            || has_name(object)
            || self.pools.iter().any(of_named_class)
    }

    /// Returns the node classes and launch templates.
    pub fn classes(&self) -> impl Iterator<Item = &Object> {
        let templates = self.templates.iter().map(|template| &template.object);
        templates.chain(&self.auto_classes)
    }

    /// Fails if `names` select no node class.
    ///
    /// # Errors
    /// [`InputError::NotSelected`] with the names of the input.
    pub fn check_selected(&self, names: &[String]) -> Result<(), InputError> {
        if names.is_empty() || self.classes().any(|class| self.selects(class, names)) {
            return Ok(());
        }
        let known: Vec<_> = self.classes().map(|class| class.name.clone()).collect();
        Err(InputError::NotSelected {
            names: names.join(", "),
            known: known.join(", "),
        })
    }

    /// Returns the pools of a node class.
    pub fn pools_of<'a>(
        &'a self,
        template: &'a NodeTemplate,
    ) -> impl Iterator<Item = &'a NodePool> {
        self.pools.iter().filter(|pool| {
            template.dialect == Dialect::Karpenter
                && pool.class.as_ref() == Some(&template.object.name)
        })
    }

    fn ignore(&mut self, kind: &str) {
        *self.ignored.entry(kind.to_owned()).or_default() += 1;
    }

    fn add(&mut self, file: &str, document: &Cursor) -> Result<(), InputError> {
        if let Some(resources) = terraform::resources(document) {
            if resources.is_empty() {
                self.ignore("Terraform document without resources");
            }
            return resources
                .iter()
                .try_for_each(|resource| terraform::add(self, file, resource));
        }
        let items = document.list("items");
        let Some(kind) = document.text_of("kind") else {
            return self.add_aws(file, document);
        };
        if kind.ends_with("List") && document.get("items").is_some() {
            return items
                .iter()
                .try_for_each(|item| self.add(file, &item.as_root()));
        }
        let group = document.text_of("apiVersion").unwrap_or_default();
        let group = group.split('/').next().unwrap_or_default();
        let object = object(file, &kind, document);
        match (kind.as_str(), group) {
            ("EC2NodeClass", _) => {
                let found = NodeTemplate::karpenter(object.clone(), document);
                self.templates
                    .push(found.map_err(|(place, problem)| field(&object, place, problem))?);
            }
            ("NodePool", "karpenter.sh") => self.pools.push(NodePool::read(object, document)),
            ("NodeClass", "eks.amazonaws.com") => self.auto_classes.push(object),
            _ => match Workload::pod_path(&kind) {
                Some(path) => {
                    let workload = Workload::read(object, document.at(path).as_ref());
                    match workload.karpenter() {
                        Some(version) => self.karpenter = Some(version),
                        None => self.workloads.push(workload),
                    }
                }
                None => self.ignore(&kind),
            },
        }
        Ok(())
    }

    /// Adds the output of an AWS command, or the data of a launch template.
    fn add_aws(&mut self, file: &str, document: &Cursor) -> Result<(), InputError> {
        let named = |name: String| Object {
            kind: "launch template".to_owned(),
            name,
            namespace: None,
            file: file.to_owned(),
            line: document.place().line,
            status: None,
        };
        let name_of = |document: &Cursor| {
            document
                .text_of("LaunchTemplateName")
                .or_else(|| document.text_of("LaunchTemplateId"))
                .unwrap_or_else(|| "data".to_owned())
        };
        let versions = document.list("LaunchTemplateVersions");
        if !versions.is_empty() {
            for version in current(&versions) {
                let number = version.text_of("VersionNumber").unwrap_or_default();
                let mut object = named(format!("{} version {number}", name_of(version)));
                object.line = version.place().line;
                if let Some(data) = version.get("LaunchTemplateData") {
                    self.add_launch_template(&object, &data.as_root(), Dialect::Ec2)?;
                }
            }
            return Ok(());
        }
        if let Some(data) = document.get("LaunchTemplateData") {
            return self.add_launch_template(
                &named(name_of(document)),
                &data.as_root(),
                Dialect::Ec2,
            );
        }
        let keys = document.keys();
        if ["BlockDeviceMappings", "UserData", "ImageId"]
            .iter()
            .any(|key| keys.contains(key))
        {
            return self.add_launch_template(&named("data".to_owned()), document, Dialect::Ec2);
        }
        if document.place().line > 0 && keys.is_empty() {
            self.ignore("document without fields");
        } else {
            self.ignore(&format!("document with `{}`", keys.join("`, `")));
        }
        Ok(())
    }

    fn add_launch_template(
        &mut self,
        object: &Object,
        data: &Cursor,
        dialect: Dialect,
    ) -> Result<(), InputError> {
        let found = NodeTemplate::launch_template(object.clone(), data, dialect);
        self.templates
            .push(found.map_err(|(place, problem)| field(object, place, problem))?);
        Ok(())
    }
}

/// Returns the versions of launch templates that groups use: the default and the newest of each template.
fn current<'a, 'n>(versions: &'a [Cursor<'n>]) -> Vec<&'a Cursor<'n>> {
    let id = |version: &Cursor| version.text_of("LaunchTemplateId");
    let number = |version: &Cursor| {
        version
            .number_at("VersionNumber")
            .map(|number| number.value)
    };
    versions
        .iter()
        .filter(|version| {
            let is_default = version
                .bool_at("DefaultVersion")
                .is_some_and(|default| default.value);
            let newer =
                |other: &Cursor| id(other) == id(version) && number(other) > number(version);
            is_default || !versions.iter().any(newer)
        })
        .collect()
}

fn object(file: &str, kind: &str, document: &Cursor) -> Object {
    let metadata = document.get("metadata");
    let text = |key| metadata.as_ref().and_then(|metadata| metadata.text_of(key));
    let conditions = document
        .get("status")
        .map(|status| status.list("conditions"));
    Object {
        kind: kind.to_owned(),
        name: text("name")
            .or_else(|| text("generateName"))
            .unwrap_or_else(|| "without a name".to_owned()),
        namespace: text("namespace"),
        file: file.to_owned(),
        line: document.place().line,
        status: conditions.map(|conditions| Status {
            generation: metadata
                .as_ref()
                .and_then(|metadata| metadata.number_at("generation"))
                .map(|At { value, .. }| value),
            conditions: conditions.iter().map(status_condition).collect(),
        }),
    }
}

fn status_condition(condition: &Cursor) -> StatusCondition {
    let text = |key| condition.text_of(key);
    let message = match (text("reason"), text("message")) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (reason, message) => reason.or(message).unwrap_or_else(|| "no reason".to_owned()),
    };
    StatusCondition {
        place: condition.place(),
        kind: text("type").unwrap_or_default(),
        status: text("status").unwrap_or_default(),
        message,
        generation: condition.number_at("observedGeneration").map(|at| at.value),
    }
}

fn field(object: &Object, place: Place, problem: String) -> InputError {
    InputError::Field {
        file: object.file.clone(),
        line: place.line,
        object: object.to_string(),
        path: place.path,
        problem,
    }
}
