//! Conditions of the software on a node: AMI family, container runtime, instance store, versions.

use prepull_domain::BottlerocketVersion;

use super::{Problem, Subject};
use crate::check::Severity;
use crate::check::input::template::{Dialect, NodeTemplate};
use crate::check::input::tree::{At, Place};
use crate::check::input::user_data::{Settings, UserData};

/// First release whose `ephemeral-storage bind` without directories also moves containerd's directory.
///
/// Source: `SupportsDefaultBind` in `pkg/providers/version/version.go` of karpenter-provider-aws.
const DEFAULT_BIND_SINCE: &str = "1.46.0";

/// Returns the settings in the user data of Bottlerocket nodes.
fn settings<'a>(
    subject: &Subject<'a>,
) -> impl Iterator<Item = (&'a NodeTemplate, &'a Settings, &'a Place)> {
    subject.templates().filter_map(|template| {
        let At { value, place } = template.user_data.as_ref()?;
        match value {
            UserData::Settings(settings) => Some((template, settings, place)),
            UserData::Unreadable(_) => None,
        }
    })
}

/// 8: Karpenter moves containerd to the instance store.
pub fn raid0<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let found = subject.templates().filter_map(|template| {
        let policy = template.instance_store_policy.as_ref()?;
        let message =
            "is RAID0, so containerd uses the empty instance store instead of the data volume";
        (policy.value == "RAID0").then(|| Problem::new(&template.object, &policy.place, message))
    });
    found.collect()
}

/// 10: the nodes have another snapshotter than the builder.
pub fn snapshotter<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let found = settings(subject).filter_map(|(template, settings, place)| {
        let wanted = settings.snapshotter.as_ref()?;
        let manifest = subject.manifest(template)?;
        let built = &manifest.node.snapshotter;
        if wanted == built {
            return None;
        }
        let message = format!(
            "sets the snapshotter `{wanted}`, but the builder unpacked the images with `{built}`"
        );
        Some(Problem::new(&template.object, place, message))
    });
    found.collect()
}

/// 11: a bootstrap command moves containerd's directory to the instance store.
pub fn bind<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for (template, settings, place) in settings(subject) {
        for bind in &settings.binds {
            let message = match &bind.directories {
                Some(directories) => {
                    let covers = |directory: &String| {
                        directory.trim_end_matches('/') == "/var/lib/containerd"
                    };
                    if !directories.iter().any(covers) {
                        continue;
                    }
                    format!(
                        "binds /var/lib/containerd to the instance store in `{}`",
                        bind.name
                    )
                }
                None if release(template).is_some_and(binds_nothing_by_default) => continue,
                None => format!(
                    "binds the default directories to the instance store in `{}`, and /var/lib/containerd is one since \
                     Bottlerocket {DEFAULT_BIND_SINCE}",
                    bind.name
                ),
            };
            problems.push(Problem::new(&template.object, place, message));
        }
    }
    problems
}

fn binds_nothing_by_default(release: &BottlerocketVersion) -> bool {
    DEFAULT_BIND_SINCE
        .parse()
        .is_ok_and(|since| *release < since)
}

/// Returns the pinned release of the nodes.
fn release(template: &NodeTemplate) -> Option<&BottlerocketVersion> {
    template
        .ami
        .references
        .iter()
        .find_map(|reference| reference.value.release.as_ref())
}

/// 12: the kubelet removes images by their age.
pub fn maximum_age<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let found = settings(subject).filter_map(|(template, settings, place)| {
        // Karpenter replaces the user data's Kubernetes settings by those that it knows, and it does not know this one.
        if template.dialect == Dialect::Karpenter {
            return None;
        }
        let age = settings.image_maximum_gc_age.as_ref()?;
        // 0 turns the removal by age off.
        if age.trim_end_matches(|c: char| c.is_ascii_alphabetic()) == "0" {
            return None;
        }
        let message = format!("lets the kubelet remove images that no pod has used for {age}");
        Some(Problem::new(&template.object, place, message))
    });
    found.collect()
}

/// 13: the nodes do not run Bottlerocket.
pub fn family<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let found = subject.all_templates().filter_map(|template| {
        let ami = &template.ami;
        let object = &template.object;
        match (&ami.family, &template.user_data) {
            (Some(family), _) if family.value != "bottlerocket" => {
                let message = format!(
                    "is of the family `{}`, but the snapshot is Bottlerocket's data volume",
                    family.value
                );
                Some(Problem::new(object, &family.place, message))
            }
            (
                _,
                Some(At {
                    value: UserData::Unreadable(reason),
                    place,
                }),
            ) => {
                let message = format!("does not configure Bottlerocket: {reason}");
                Some(Problem::new(object, place, message))
            }
            (None, _) if template.dialect == Dialect::Karpenter => {
                let message = "has no alias and `amiFamily` is missing, so the family is unknown";
                Some(Problem::new(object, &ami.place, message))
            }
            _ => None,
        }
    });
    found.collect()
}

/// 15: the nodes run an older Bottlerocket than the builder.
pub fn older_release<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for template in subject.templates() {
        let Some(manifest) = subject.manifest(template) else {
            continue;
        };
        let built = &manifest.node.bottlerocket_version;
        for At { value, place } in &template.ami.references {
            if let Some(release) = value.release.as_ref().filter(|release| *release < built) {
                let message = format!("pins Bottlerocket {release}, but the builder ran {built}");
                let remedy = format!(
                    "Use {built} or later, or set the cache's `bottlerocket_version` to {release}"
                );
                problems.push(Problem::new(&template.object, place, message).with_remedy(remedy));
            }
        }
    }
    problems
}

/// 16: the nodes run another Kubernetes minor version or another flavor than the builder.
pub fn other_variant<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for template in subject.templates() {
        let Some(manifest) = subject.manifest(template) else {
            continue;
        };
        let variant = &manifest.variant;
        let built = minor(&variant.kubernetes_version());
        let built_fips = variant.to_string().ends_with("-fips");
        let mut compare = |nodes: Option<u16>, place: &Place| {
            let (Some(nodes), Some(built)) = (nodes, built) else {
                return;
            };
            let severity = if nodes < built {
                Severity::Error
            } else {
                Severity::Warning
            };
            if nodes != built {
                let message =
                    format!("gives Kubernetes 1.{nodes}, but the cache is built for {variant}");
                problems
                    .push(Problem::new(&template.object, place, message).with_severity(severity));
            }
        };
        for At { value, place } in &template.ami.references {
            compare(value.minor, place);
        }
        // An alias follows the minor version of the cluster.
        if template
            .ami
            .references
            .iter()
            .all(|reference| reference.value.minor.is_none())
        {
            compare(subject.kubernetes.and_then(minor), &template.ami.place);
        }
        for At { value, place } in &template.ami.references {
            if let Some(fips) = value.fips.filter(|fips| *fips != built_fips) {
                let kind = if fips {
                    "a FIPS variant"
                } else {
                    "a variant without FIPS"
                };
                let message = format!("gives {kind}, but the cache is built for {variant}");
                problems.push(Problem::new(&template.object, place, message));
            }
        }
    }
    problems
}

/// Returns the minor version in `1.33`.
pub fn minor(version: &str) -> Option<u16> {
    version.strip_prefix("1.")?.parse().ok()
}
