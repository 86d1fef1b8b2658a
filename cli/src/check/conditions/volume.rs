//! Conditions of the volumes of a node.

use std::fmt::Write as _;

use prepull_domain::{Bytes, GiB, names};
use prepull_estimate::INITIALIZATION_RATE_QUOTA;

use super::{Problem, Subject};
use crate::check::input::template::{Dialect, Mapping, NodeTemplate, SnapshotText};
use crate::check::input::tree::At;
use crate::check::input::user_data::UserData;
use crate::check::known::Key;

/// Device of Bottlerocket's root volume.
const ROOT_DEVICE: &str = "/dev/xvda";

/// Minimum size of the root volume.
///
/// Source: `DefaultBlockDeviceMappings` in `pkg/providers/amifamily/bottlerocket.go` of karpenter-provider-aws.
const ROOT_SIZE: GiB = GiB(4);

/// The kubelet's default of `imageGCHighThresholdPercent`.
///
/// Source: `SetDefaults_KubeletConfiguration` in `pkg/kubelet/apis/config/v1beta1/defaults.go` of Kubernetes.
const DEFAULT_GC_PERCENT: u64 = 85;

/// Formats a size in GiB, as EC2 and node classes write it.
fn gib(size: Bytes) -> String {
    let tenths = (u128::from(size.0) * 10) >> 30;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} GiB"),
        (whole, tenth) => format!("{whole}.{tenth} GiB"),
    }
}

/// 1: no data volume, or no snapshot for it.
pub fn snapshot_missing<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for template in subject.templates() {
        let snapshot = template.dialect.fields().snapshot;
        let object = &template.object;
        match template.volume(names::DATA_DEVICE) {
            // Condition 2 reports a snapshot that has another device name.
            None if misplaced(template).is_some() => {}
            None => problems.push(Problem::new(
                object,
                &template.mappings_place,
                format!(
                    "has no {}, so nodes start without the cached images",
                    names::DATA_DEVICE
                ),
            )),
            Some(Mapping {
                snapshot:
                    Some(At {
                        value: SnapshotText::Invalid(text),
                        place,
                    }),
                ..
            }) => {
                problems.push(Problem::new(
                    object,
                    place,
                    format!("is `{text}`, which is not a snapshot ID, so no node launches"),
                ));
            }
            Some(Mapping {
                snapshot: Some(_), ..
            }) => {}
            Some(mapping) => problems.push(Problem::new(
                object,
                &mapping.place.join(snapshot),
                "is missing, so nodes start with an empty data volume",
            )),
        }
    }
    problems
}

/// Returns a snapshot of a device that is neither the root nor the data volume.
fn misplaced(template: &NodeTemplate) -> Option<(&Mapping, &At<SnapshotText>)> {
    if template
        .volume(names::DATA_DEVICE)
        .is_some_and(|data| data.snapshot.is_some())
    {
        return None;
    }
    let found = template
        .mappings
        .iter()
        .find(|mapping| mapping.snapshot.is_some() && !mapping.is(names::DATA_DEVICE))?;
    Some((found, found.snapshot.as_ref()?))
}

/// 2: the snapshot has another device name.
pub fn wrong_device<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let templates = subject.templates();
    let found = templates.filter_map(|template| {
        let (mapping, snapshot) = misplaced(template)?;
        let device = mapping.device.as_ref();
        let name = device.map_or("no device", |device| device.value.as_str());
        let place = device.map_or(&snapshot.place, |device| &device.place);
        let message = format!(
            "gives the snapshot to {name}, but Bottlerocket's data volume is {}",
            names::DATA_DEVICE
        );
        Some(Problem::new(&template.object, place, message))
    });
    found.collect()
}

/// 3: no size, or Karpenter takes the ephemeral storage from another volume.
pub fn size_missing<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for (template, data) in subject.data_volumes() {
        // EC2 uses the size of the snapshot. Only Karpenter assumes another one.
        if template.dialect != Dialect::Karpenter {
            continue;
        }
        if data.size.is_none() {
            let place = data.place.join(template.dialect.fields().size);
            let message = "is missing, so Karpenter assumes 20 GiB of ephemeral storage";
            problems.push(Problem::new(&template.object, &place, message));
        }
        for mapping in &template.mappings {
            if let Some(place) = &mapping.root_volume
                && !mapping.is(names::DATA_DEVICE)
            {
                let message = "is true, so Karpenter takes the ephemeral storage from this volume";
                let remedy = format!("Remove `rootVolume`, so that {} counts", names::DATA_DEVICE);
                problems.push(Problem::new(&template.object, place, message).with_remedy(remedy));
            }
        }
    }
    problems
}

/// 4: the volume is smaller than the snapshot.
pub fn too_small<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let volumes = subject.data_volumes();
    let found = volumes.filter_map(|(template, data)| {
        let size = data.size.as_ref()?;
        let needed = subject.manifest(template)?.volume_size;
        if size.value >= needed.bytes() {
            return None;
        }
        let message = format!(
            "is {}, but the snapshot needs {needed}, so no node launches",
            gib(size.value)
        );
        let remedy = format!("Set the size to at least {needed}");
        Some(Problem::new(&template.object, &size.place, message).with_remedy(remedy))
    });
    found.collect()
}

/// 5: no initialization rate.
pub fn rate_missing<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let volumes = subject
        .data_volumes()
        .filter(|(_, data)| data.rate.is_none());
    let found = volumes.map(|(template, data)| {
        let place = data.place.join(template.dialect.fields().rate);
        let message = "is missing, so EBS loads each block at its first read";
        Problem::new(&template.object, &place, message)
    });
    found.collect()
}

/// 6: the volumes of a burst of nodes initialize faster than the quota allows.
pub fn rate_quota<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let Some(burst) = subject.burst else {
        return Vec::new();
    };
    let quota = u64::from(INITIALIZATION_RATE_QUOTA);
    let volumes = subject.data_volumes().filter_map(|(template, data)| {
        let rate = data.rate.as_ref()?;
        let needed = rate.value.saturating_mul(u64::from(burst));
        (needed > quota).then(|| {
            let message = format!(
                "is {} MiB/s, so {burst} nodes need {needed} MiB/s, and the default quota is {quota}",
                rate.value
            );
            Problem::new(&template.object, &rate.place, message)
        })
    });
    volumes.collect()
}

/// 7: the root volume is missing or small.
pub fn root_volume<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for (template, _) in subject.data_volumes() {
        let object = &template.object;
        match template.volume(ROOT_DEVICE) {
            None => problems.push(Problem::new(
                object,
                &template.mappings_place,
                format!("has no {ROOT_DEVICE}, so the root volume is the AMI's: 2 GiB and perhaps unencrypted"),
            )),
            Some(Mapping { size: Some(size), .. }) if size.value < ROOT_SIZE.bytes() => {
                let message = format!("is {}, less than {ROOT_SIZE}", gib(size.value));
                problems.push(Problem::new(object, &size.place, message));
            }
            Some(_) => {}
        }
    }
    problems
}

/// 9: the images fill the volume up to the kubelet's limit.
pub fn image_gc<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let volumes = subject.data_volumes();
    let found = volumes.filter_map(|(template, data)| {
        let manifest = subject.manifest(template)?;
        let (capacity, place) = match &data.size {
            Some(size) => (size.value, size.place.clone()),
            None => (manifest.volume_size.bytes(), data.place.join(template.dialect.fields().size)),
        };
        // Condition 4 reports a volume that is too small for the snapshot.
        if capacity < manifest.volume_size.bytes() {
            return None;
        }
        let usage = usage_percent(manifest.used, capacity)?;
        let limit = gc_percent(template);
        // 100 turns the removal off.
        if limit >= 100 || usage < limit {
            return None;
        }
        let wanted = u128::from(manifest.used.0) * 100 / u128::from(limit.saturating_sub(10).max(1));
        let wanted = GiB(u32::try_from(wanted.div_ceil(1 << 30)).unwrap_or(u32::MAX));
        let message = format!(
            "leaves the images {usage} % of the volume, and the kubelet removes images from {limit} % on"
        );
        let remedy = format!("Set the size to at least {wanted}, or remove images from the cache");
        Some(Problem::new(&template.object, &place, message).with_remedy(remedy))
    });
    found.collect()
}

/// Returns the usage as the kubelet counts it: 100 minus the available part, which is rounded down. 84.1 % counts as 85.
///
/// Source: `GarbageCollect` in `pkg/kubelet/images/image_gc_manager.go` of Kubernetes.
fn usage_percent(used: Bytes, capacity: Bytes) -> Option<u64> {
    let available = u128::from(capacity.0.saturating_sub(used.0)) * 100;
    let available = available.checked_div(u128::from(capacity.0))?;
    Some(100 - u64::try_from(available).ok()?)
}

/// Returns the limit of the kubelet. Karpenter's field replaces the user data's.
fn gc_percent(template: &NodeTemplate) -> u64 {
    let user_data = match template.user_data.as_ref().map(|at| &at.value) {
        Some(UserData::Settings(settings)) => settings.image_gc_high_percent,
        _ => None,
    };
    let field = template.image_gc_high_percent.as_ref().map(|at| at.value);
    field.or(user_data).unwrap_or(DEFAULT_GC_PERCENT)
}

/// 17: the volume has another KMS key.
pub fn other_key<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let volumes = subject.data_volumes();
    let found = volumes.filter_map(|(template, data)| {
        let key = data.key.as_ref()?;
        let cache = match &subject.target(template)?.key {
            Key::Unknown => return None,
            Key::Default => "the account's default key",
            Key::Id(cache) if same_key(cache, &key.value) => return None,
            Key::Id(cache) => cache,
        };
        let message = format!("is `{}`, but the cache uses {cache}", key.value);
        Some(Problem::new(&template.object, &key.place, message))
    });
    found.collect()
}

/// Whether two key IDs, ARNs or aliases can be the same key. An alias can name every key.
fn same_key(one: &str, other: &str) -> bool {
    let id = |key: &str| key.rsplit("key/").next().unwrap_or_default().to_owned();
    let is_alias = |key: &str| key.contains("alias/");
    is_alias(one) != is_alias(other) || id(one) == id(other)
}

/// 18: the volume is explicitly unencrypted.
pub fn unencrypted<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let volumes = subject.data_volumes();
    let found = volumes.filter_map(|(template, data)| {
        let encrypted = data
            .encrypted
            .as_ref()
            .filter(|encrypted| !encrypted.value)?;
        let message = "is false, but the snapshot is encrypted, so no node launches";
        Some(Problem::new(&template.object, &encrypted.place, message))
    });
    found.collect()
}

/// 19: the snapshot does not exist in the cache, or no node must use it.
pub fn unusable_snapshot<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    let volumes = subject.data_volumes();
    let found = volumes.filter_map(|(template, data)| {
        let snapshot = data.snapshot.as_ref()?;
        let id = snapshot.value.id()?;
        let cache = subject.cache;
        if cache
            .targets
            .iter()
            .any(|target| target.manifest.snapshot_id == *id)
        {
            return None;
        }
        let mut others = cache
            .targets
            .iter()
            .flat_map(|target| target.others.iter().flatten());
        let message = match others.find(|other| other.id == *id) {
            Some(other) => format!(
                "is `{id}`, which nodes must not use: {}",
                other.unusable.as_ref()?
            ),
            // An incomplete list does not show that a snapshot is unknown.
            None if cache.targets.iter().any(|target| target.others.is_none()) => return None,
            None => format!(
                "is `{id}`, which is not a published snapshot of cache `{}`",
                cache.name
            ),
        };
        Some(
            Problem::new(&template.object, &snapshot.place, message)
                .with_remedy(subject.use_pointer(template)),
        )
    });
    found.collect()
}

/// 20: a node class has another snapshot than the pointer.
pub fn other_snapshot<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    behind(subject, |dialect| dialect == Dialect::Karpenter)
}

/// 28: a launch template has another snapshot than the pointer.
pub fn other_template_snapshot<'a>(subject: &Subject<'a>) -> Vec<Problem<'a>> {
    behind(subject, |dialect| dialect != Dialect::Karpenter)
}

fn behind<'a>(subject: &Subject<'a>, applies: fn(Dialect) -> bool) -> Vec<Problem<'a>> {
    let unusable = unusable_snapshot(subject);
    let volumes = subject
        .data_volumes()
        .filter(|(template, _)| applies(template.dialect));
    let found = volumes.filter_map(|(template, data)| {
        let snapshot = data.snapshot.as_ref()?;
        let id = snapshot.value.id()?;
        let target = subject.target(template)?;
        let pointer = &target.manifest.snapshot_id;
        // Condition 19 has reported an unusable snapshot.
        let reported = |problem: &Problem| {
            problem.place == snapshot.place && problem.object == Some(&template.object)
        };
        if pointer == id || unusable.iter().any(reported) {
            return None;
        }
        let owner = if target.published {
            "pointer"
        } else {
            "manifest"
        };
        let mut message = format!("is `{id}`, but the {owner} has `{pointer}`");
        if let Some(own) = target.manifest_of(id) {
            // Writing to a string cannot fail.
            let _ = write!(
                message,
                ". Their snapshots are of {} and {}",
                own.completed_at, target.manifest.completed_at
            );
        }
        Some(
            Problem::new(&template.object, &snapshot.place, message)
                .with_remedy(subject.use_pointer(template)),
        )
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_a_started_percent_as_whole() {
        for (used, percent) in [
            (0, 0),
            (840, 84),
            (841, 85),
            (850, 85),
            (999, 100),
            (2000, 100),
        ] {
            assert_eq!(
                usage_percent(Bytes(used), Bytes(1000)),
                Some(percent),
                "{used}"
            );
        }
        assert_eq!(usage_percent(Bytes(1), Bytes(0)), None);
    }

    #[test]
    fn key_id_and_arn_are_the_same_key() {
        let arn = "arn:aws:kms:eu-west-1:123456789012:key/ab12";
        assert!(same_key(arn, "ab12"));
        assert!(same_key(arn, "alias/nodes"));
        assert!(!same_key(arn, "cd34"));
        assert!(!same_key("alias/builds", "alias/nodes"));
    }
}
