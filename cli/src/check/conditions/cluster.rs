//! Conditions of objects in a cluster: node pools, the status of objects, EKS Auto Mode, workloads.

use std::collections::{BTreeMap, BTreeSet};

use prepull_domain::Architecture;
use prepull_kubernetes::nodes::{InSnapshot, NodeReport, Origin, PullPolicy};

use super::{Problem, Subject};
use crate::check::Severity;
use crate::check::input::Object;
use crate::check::input::pool::NodePool;
use crate::check::input::template::{Dialect, NodeTemplate};
use crate::check::input::tree::{At, Place};
use crate::check::input::workload::ImageName;
use crate::check::known::Target;

/// 14: a pool does not fix the architecture, or fixes another one than the snapshot's.
pub fn architecture<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let found = subject.cached_pools().filter_map(|(template, pool)| {
        let Some(At {
            value: allowed,
            place,
        }) = &pool.architectures
        else {
            let message =
                "has no requirement for `kubernetes.io/arch`, so nodes of both architectures start";
            return Some(Problem::new(&pool.object, &pool.requirements, message));
        };
        let names: Vec<_> = allowed
            .iter()
            .map(|architecture| architecture.oci_name())
            .collect();
        let message = match (&names[..], subject.architecture_of_snapshot(template)) {
            ([], _) => "allows no architecture that Bottlerocket has".to_owned(),
            ([_, _], _) => "allows both architectures, but a snapshot has images of one".to_owned(),
            ([only], Some(snapshot)) if *only != snapshot.oci_name() => {
                format!(
                    "allows only {only}, but the snapshot of the node class is for {}",
                    snapshot.oci_name()
                )
            }
            _ => return None,
        };
        Some(Problem::new(&pool.object, place, message))
    });
    found.collect()
}

/// 26: a pool without a taint also gets pods with other images.
pub fn taint<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let pools = subject.cached_pools().filter(|(_, pool)| pool.taints == 0);
    let found = pools.map(|(_, pool)| {
        let message = "has no taint, so images of other pods fill the volume too";
        Problem::new(&pool.object, &pool.taints_place, message)
    });
    found.collect()
}

/// 27: no pool takes the pods if the node class is not ready.
pub fn fallback<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let pools = subject
        .cached_pools()
        .filter(|(_, pool)| !subject.pools().any(|other| is_fallback(other, pool)));
    let found = pools.map(|(_, pool)| {
        let place = Place {
            path: "spec.weight".to_owned(),
            line: pool.object.line,
        };
        let message = "is the lowest for its nodes, so pods wait if the node class is not ready";
        Problem::new(&pool.object, &place, message)
    });
    found.collect()
}

/// Whether pods can move from `pool` to `other`.
pub fn is_fallback(other: &NodePool, pool: &NodePool) -> bool {
    let architectures = |pool: &NodePool| -> BTreeSet<Architecture> {
        let allowed = pool.architectures.as_ref().map(|at| at.value.clone());
        allowed.unwrap_or_else(|| Architecture::ALL.into())
    };
    other.weight < pool.weight
        && other.class != pool.class
        && !architectures(other).is_disjoint(&architectures(pool))
}

/// 21: an object is not ready for its present generation.
pub fn status<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let classes = subject.all_templates().map(|template| &template.object);
    let pools = subject.pools().map(|pool| &pool.object);
    classes.chain(pools).flat_map(status_of).collect()
}

fn status_of(object: &Object) -> Vec<Problem<'_>> {
    let Some(status) = &object.status else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.kind == "Ready");
    if let Some(ready) = ready {
        let is_old = ready
            .generation
            .zip(status.generation)
            .is_some_and(|(seen, now)| seen < now);
        if is_old {
            let message =
                "describes an older generation, so Karpenter has not accepted the newest change";
            problems.push(Problem::new(object, &ready.place, message));
        } else if ready.status != "True" {
            let message = format!("has Ready={}: {}", ready.status, ready.message);
            problems.push(Problem::new(object, &ready.place, message));
        }
    }
    // `Ready` summarizes only some conditions, for example not `NodeRegistrationHealthy`.
    let failed = status
        .conditions
        .iter()
        .filter(|condition| condition.kind != "Ready" && condition.status == "False");
    for condition in failed {
        let message = format!("has {}=False: {}", condition.kind, condition.message);
        let severity = if ready.is_some_and(|ready| ready.status == "True") {
            Severity::Warning
        } else {
            Severity::Error
        };
        problems.push(Problem::new(object, &condition.place, message).with_severity(severity));
    }
    problems
}

/// 22: Karpenter does not have a field of the node class.
pub fn old_karpenter<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let Some((major, minor)) = subject.inputs.karpenter else {
        return Vec::new();
    };
    let needs = |at: (u16, u16), template: &'a NodeTemplate, place: &Place, field: &str| {
        ((major, minor) < at).then(|| {
            let message = format!(
                "needs Karpenter {}.{}, and the cluster has {major}.{minor}: {field} is new",
                at.0, at.1
            );
            Problem::new(&template.object, place, message)
        })
    };
    let karpenter = subject
        .templates()
        .filter(|template| template.dialect == Dialect::Karpenter);
    let found = karpenter.flat_map(|template| {
        let rates = template.mappings.iter().filter_map(|it| it.rate.as_ref());
        let rates = rates
            .filter_map(|rate| needs((1, 5), template, &rate.place, "volumeInitializationRate"));
        let parameters = template.ami.references.iter();
        let parameters = parameters
            .filter(|reference| reference.place.path.ends_with("ssmParameter"))
            .filter_map(|at| needs((1, 4), template, &at.place, "ssmParameter"));
        rates.chain(parameters).collect::<Vec<_>>()
    });
    found.collect()
}

/// 31: a node from a snapshot of the cache does not have or use its images.
pub fn missed_images<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for node in cached_nodes(subject) {
        for image in &node.images {
            let pulls = image.pulls.iter();
            // With the policy `Always`, the kubelet reports a pull although the node has the image.
            let pulled = pulls.filter(|pull| pull.policy == PullPolicy::IfNotPresent);
            if image.in_snapshot == InSnapshot::Yes && pulled.count() > 0 {
                let message = format!("pulled `{}`, which its snapshot has", image.image);
                problems.push(Problem::of_cache(&format!("node {}", node.name), message));
            }
        }
        let missing = node.cached.iter().flat_map(|cached| &cached.missing);
        for image in missing {
            let message = format!("does not list `{image}`, which its snapshot has");
            problems.push(Problem::of_cache(&format!("node {}", node.name), message));
        }
    }
    problems
}

/// 32: EBS still loads the volume of a node.
pub fn initialization<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let nodes = cached_nodes(subject).filter_map(|node| {
        let percent = node.initialization?.percent();
        (percent < 100).then(|| {
            let message = format!("has initialized {percent} % of its data volume");
            Problem::of_cache(&format!("node {}", node.name), message)
        })
    });
    nodes.collect()
}

/// Returns the nodes that started from a snapshot of the cache.
fn cached_nodes<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a NodeReport> {
    let nodes = subject.hit_rate.into_iter().flat_map(|it| &it.nodes);
    nodes.filter(|node| matches!(node.origin, Origin::Cache { .. }))
}

/// 30: EKS Auto Mode does not start volumes from snapshots.
pub fn auto_mode<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let found = subject.inputs.auto_classes.iter().map(|object| {
        let place = Place {
            path: "spec".to_owned(),
            line: object.line,
        };
        Problem::new(
            object,
            &place,
            "cannot have a snapshot, because EKS Auto Mode has no field for it",
        )
    });
    found.collect()
}

/// The names of the cached images on nodes, with their architectures.
fn cached(subject: &Subject) -> BTreeMap<ImageName, BTreeSet<Architecture>> {
    let mut cached: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for target in &subject.cache.targets {
        for image in &target.manifest.images {
            let names = image.reference.names_on_node(&image.digest);
            for name in names.iter().filter_map(|name| ImageName::parse(name)) {
                cached
                    .entry(name)
                    .or_default()
                    .insert(target.architecture());
            }
        }
    }
    cached
}

/// 23: the kubelet asks the registry although the image is cached.
pub fn pull_always<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let cached = cached(subject);
    let mut problems = Vec::new();
    for workload in &subject.inputs.workloads {
        for image in &workload.images {
            let Some(name) = image.name.as_ref().filter(|name| cached.contains_key(name)) else {
                continue;
            };
            let message = match image.policy.as_deref() {
                Some("Always") => format!("has `{name}` with `imagePullPolicy: Always`"),
                None if name.is_latest() => {
                    format!("has `{name}` without a policy, and `latest` implies Always")
                }
                _ => continue,
            };
            let message = format!("{message}, so each start asks the registry");
            problems.push(Problem::new(&workload.object, &image.given.place, message));
        }
    }
    problems
}

/// 24: pods have images that the snapshot does not have, or the snapshot has images that no pod has.
pub fn images<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let workloads = &subject.inputs.workloads;
    if workloads.is_empty() {
        return Vec::new();
    }
    let cached = cached(subject);
    let mut problems = Vec::new();
    let mut reported = BTreeSet::new();
    let mut used = BTreeSet::new();
    for workload in workloads {
        for image in &workload.images {
            let given = &image.given.value;
            let Some(name) = &image.name else {
                if reported.insert(given.clone()) {
                    let message = format!("is `{given}`, which is not a valid image reference");
                    let remedy = "Correct the reference, or render the template before the check";
                    problems.push(
                        Problem::new(&workload.object, &image.given.place, message)
                            .with_remedy(remedy),
                    );
                }
                continue;
            };
            used.insert(name.clone());
            let has = cached.get(name);
            let targets = subject.cache.targets.iter();
            let missing: Vec<_> = targets
                .map(Target::architecture)
                .filter(|architecture| !has.is_some_and(|has| has.contains(architecture)))
                .collect();
            if missing.is_empty() || !reported.insert(name.to_string()) {
                continue;
            }
            let mut message = format!("is `{name}`, which the snapshot does not have");
            if has.is_some() {
                let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
                message = format!("{message} for {}", missing.join(" and "));
            }
            let mut similar = cached
                .keys()
                .filter(|other| other.repository == name.repository && *other != name);
            let remedy = similar.next().map(|other| {
                format!("Use `{other}`, or add `{name}` to the cache's `images` and build")
            });
            let problem = Problem::new(&workload.object, &image.given.place, message);
            let add = format!("Add `{name}` to the cache's `images`, and build");
            problems.push(problem.with_remedy(remedy.unwrap_or(add)));
        }
    }
    problems.extend(unused(subject, &used));
    problems
}

/// Returns a note for each cached image that no workload has.
fn unused<'a>(subject: &Subject<'a>, used: &BTreeSet<ImageName>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for target in &subject.cache.targets {
        for image in &target.manifest.images {
            let names = image.reference.names_on_node(&image.digest);
            let is_used = names
                .iter()
                .filter_map(|name| ImageName::parse(name))
                .any(|name| used.contains(&name));
            if is_used || !seen.insert(&image.reference) {
                continue;
            }
            let message = format!(
                "include `{}`, which no workload of the input uses",
                image.reference
            );
            let remedy = "Remove the image from the cache, or check all workloads";
            problems.push(
                Problem::of_cache("images", message)
                    .with_severity(Severity::Note)
                    .with_remedy(remedy),
            );
        }
    }
    problems
}
