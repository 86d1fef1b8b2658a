use std::collections::BTreeMap;

use prepull_aws::ec2::types::{InstanceType, LaunchTemplateEbsBlockDevice};
use prepull_domain::GiB;
use prepull_kubernetes::Channel;

use super::*;

const A: &str = "snap-0000000a";
const B: &str = "snap-0000000b";
const C: &str = "snap-0000000c";
const D: &str = "snap-0000000d";

fn id(text: &str) -> SnapshotId {
    text.parse().expect("a valid ID")
}

fn published(text: &str, size: u32) -> PublishedSnapshot {
    PublishedSnapshot {
        snapshot_id: id(text),
        copies: BTreeMap::new(),
        content_key: "0".repeat(64).parse().expect("a valid key"),
        variant: "aws-k8s-1.33".parse().expect("a valid variant"),
        bottlerocket_version: "1.50.0".parse().expect("a valid release"),
        volume_size: GiB(size),
        used: prepull_domain::Bytes(1),
        images: 1,
        execution: "web-1".parse().expect("a valid name"),
        planned_at: jiff::Timestamp::UNIX_EPOCH,
        completed_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// Returns a pointer with these snapshots of 50 GiB.
fn pointer(stable: Option<&str>, previous: Option<&str>, candidate: Option<&str>) -> Pointer {
    let published = |text: Option<&str>| text.map(|text| published(text, 50));
    Pointer {
        previous: published(previous),
        candidate: published(candidate),
        ..Pointer::initial(published(stable))
    }
}

fn opt_in() -> OptIn {
    OptIn {
        cache: "web".parse().expect("a valid name"),
        architecture: Architecture::X86_64,
        channel: Channel::Stable,
        ring: None,
    }
}

/// Returns the data volume of most tests: of a person, with a size of its own.
fn volume(snapshot: Option<&str>) -> LaunchTemplateEbsBlockDevice {
    LaunchTemplateEbsBlockDevice::builder()
        .set_snapshot_id(snapshot.map(str::to_owned))
        .volume_size(100)
        .volume_type(VolumeType::Gp3)
        .iops(4000)
        .throughput(500)
        .volume_initialization_rate(200)
        .build()
}

fn data(volume: Option<LaunchTemplateEbsBlockDevice>) -> ResponseLaunchTemplateData {
    let mapping = |name: &str, volume| {
        LaunchTemplateBlockDeviceMapping::builder()
            .device_name(name)
            .ebs(volume)
            .build()
    };
    let root = LaunchTemplateEbsBlockDevice::builder()
        .volume_size(4)
        .build();
    let mut mappings = vec![mapping("/dev/xvda", root)];
    mappings.extend(volume.map(|volume| mapping(DATA_DEVICE, volume)));
    ResponseLaunchTemplateData::builder()
        .instance_type(InstanceType::M7iXlarge)
        .set_block_device_mappings(Some(mappings))
        .build()
}

/// Returns a template whose versions have these snapshots, with the default version and the own versions.
fn template(snapshots: &[&str], default: i64, own: &[i64]) -> Template {
    let versions = (1..).zip(snapshots).map(|(number, snapshot)| {
        let description = description(&id(snapshot));
        let description = own.contains(&number).then_some(description.as_str());
        Version::new(number, description, data(Some(volume(Some(snapshot)))))
    });
    Template {
        id: "lt-0123456789abcdef0".parse().expect("a valid ID"),
        default,
        versions: versions.collect(),
    }
}

fn single(data: ResponseLaunchTemplateData) -> Template {
    Template {
        versions: vec![Version::new(1, None, data)],
        ..template(&[], 1, &[])
    }
}

fn plan(template: &Template, pointer: &Pointer) -> Result<Plan, Refusal> {
    let unknown = Err("it is a test".to_owned());
    template.plan(&opt_in(), Some(pointer), &Image::default(), &unknown)
}

fn size_of(data: &ResponseLaunchTemplateData) -> Option<i32> {
    data_volume(data)?.volume_size()
}

fn new_version(plan: &Plan) -> &NewVersion {
    match &plan.step {
        Step::Move(Target::New(new)) => new,
        other => panic!("no version is new: {other:?}"),
    }
}

/// Describes a plan: the next default version, or the old versions.
fn shown(plan: &Plan) -> String {
    match &plan.step {
        Step::Keep { old } => format!("keep, old {old:?}"),
        Step::Move(Target::Existing(number)) => number.to_string(),
        Step::Move(Target::New(_)) => "new".to_owned(),
    }
}

#[test]
fn plan_depends_on_pointer_and_versions() {
    type Case<'a> = (&'a str, (&'a [&'a str], i64, &'a [i64]), Pointer, &'a str);
    let cases: [Case; 13] = [
        (
            "nothing to do",
            (&[A], 1, &[]),
            pointer(Some(A), None, None),
            "keep, old []",
        ),
        (
            "first snapshot",
            (&[A], 1, &[]),
            pointer(Some(B), None, None),
            "new",
        ),
        (
            "a candidate is not written",
            (&[A], 1, &[]),
            pointer(Some(A), None, Some(B)),
            "keep, old []",
        ),
        (
            "promotion",
            (&[A, B], 2, &[1, 2]),
            pointer(Some(C), Some(B), None),
            "new",
        ),
        (
            "after the promotion",
            (&[A, B, C], 3, &[1, 2, 3]),
            pointer(Some(C), Some(B), None),
            "keep, old [1]",
        ),
        (
            "version of a person stays",
            (&[A, B, C], 3, &[2, 3]),
            pointer(Some(C), Some(B), None),
            "keep, old []",
        ),
        (
            "interrupted promotion",
            (&[A, B], 1, &[1, 2]),
            pointer(Some(B), Some(A), None),
            "2",
        ),
        (
            "roll-back needs the newest version",
            (&[A, B], 2, &[1, 2]),
            pointer(Some(A), None, None),
            "new",
        ),
        (
            "after the roll-back",
            (&[A, B, A], 3, &[1, 2, 3]),
            pointer(Some(A), None, None),
            "keep, old [2]",
        ),
        (
            "roll-back after an interrupted promotion",
            (&[A, B], 1, &[1, 2]),
            pointer(Some(A), None, None),
            "new",
        ),
        (
            "newer version of a person",
            (&[A, B], 1, &[1]),
            pointer(Some(A), None, None),
            "keep, old []",
        ),
        (
            "person returned to an older version",
            (&[A, B], 1, &[1, 2]),
            pointer(Some(A), None, Some(B)),
            "new",
        ),
        (
            "snapshots of nobody",
            (&[A, B, C, D], 4, &[1, 2, 3, 4]),
            pointer(Some(D), None, None),
            "keep, old [1, 2, 3]",
        ),
    ];
    for (name, (snapshots, default, own), pointer, expected) in cases {
        let template = template(snapshots, default, own);
        let plan = plan(&template, &pointer).expect("a plan");
        assert_eq!(shown(&plan), expected, "{name}");
    }
}

#[test]
fn channel_selects_the_snapshot() {
    let candidate = OptIn {
        channel: Channel::Candidate,
        ..opt_in()
    };
    let unknown = Err("it is a test".to_owned());
    let plan_of = |opt_in: &OptIn, pointer: &Pointer| {
        let template = template(&[A, B], 2, &[2]);
        template.plan(opt_in, Some(pointer), &Image::default(), &unknown)
    };
    for (pointer, stable, canary) in [
        (pointer(Some(A), None, Some(B)), "new", "keep, old []"),
        // Without a candidate, both channels have the stable snapshot.
        (pointer(Some(A), None, None), "new", "new"),
        (pointer(Some(B), None, None), "keep, old []", "keep, old []"),
    ] {
        let shown_of = |opt_in: &OptIn| shown(&plan_of(opt_in, &pointer).expect("a plan"));
        assert_eq!(shown_of(&opt_in()), stable);
        assert_eq!(shown_of(&candidate), canary);
    }
}

#[test]
fn interrupted_version_of_another_default_is_not_used() {
    // A person changed the instance type in version 2 and made it the default version.
    let mut template = template(&[A, A, B], 2, &[3]);
    template.versions[1].data.instance_type = Some(InstanceType::M7iLarge);
    let plan = plan(&template, &pointer(Some(B), None, None)).expect("a plan");
    let new = new_version(&plan);
    assert_eq!(
        (new.source, new.data.instance_type.clone()),
        (2, Some(InstanceType::M7iLarge))
    );
}

#[test]
fn copied_description_does_not_make_a_version_own() {
    let text = description(&id(A));
    let other = data(Some(volume(Some(B))));
    assert_eq!(Version::new(1, Some(&text), other).own, None);
    let same = data(Some(volume(Some(A))));
    assert_eq!(Version::new(1, Some(&text), same.clone()).own, Some(id(A)));
    for text in [None, Some("prepull"), Some("prepull me"), Some("web")] {
        assert_eq!(Version::new(1, text, same.clone()).own, None);
    }
}

#[test]
fn new_version_keeps_all_other_fields() {
    let mut given = volume(None);
    given.encrypted = Some(true);
    let template = single(data(Some(given)));
    let plan = plan(&template, &pointer(Some(A), None, None)).expect("a plan");
    // Without a key, EC2 takes the encryption from the snapshot.
    let new = new_version(&plan);
    assert_eq!(new.data, data(Some(volume(Some(A)))));
    let fields: Vec<_> = new.fields.iter().map(FieldChange::to_string).collect();
    assert_eq!(
        fields,
        [
            "SnapshotId: none -> snap-0000000a",
            "Encrypted: true -> none"
        ]
    );
}

#[test]
fn key_of_the_user_stays_with_its_encryption() {
    let mut given = volume(None);
    given.kms_key_id = Some("alias/web".to_owned());
    let plan = plan(&single(data(Some(given))), &pointer(Some(A), None, None)).expect("a plan");
    let volume = data_volume(&new_version(&plan).data).expect("a data volume");
    assert_eq!(volume.kms_key_id(), Some("alias/web"));
    assert_eq!(volume.encrypted(), Some(true));
}

#[test]
fn volume_is_at_least_as_large_as_the_snapshot() {
    for (given, expected) in [(Some(20), 50), (Some(50), 50), (Some(100), 100), (None, 50)] {
        let mut small = volume(Some(B));
        small.volume_size = given;
        let plan = plan(&single(data(Some(small))), &pointer(Some(A), None, None)).expect("a plan");
        assert_eq!(
            size_of(&new_version(&plan).data),
            Some(expected),
            "{given:?}"
        );
    }
    // The snapshot is right, but no node would start.
    let mut small = volume(Some(A));
    small.volume_size = Some(20);
    let plan = plan(&single(data(Some(small))), &pointer(Some(A), None, None)).expect("a plan");
    assert_eq!(shown(&plan), "new");
}

#[test]
fn default_version_with_its_own_encryption_is_up_to_date() {
    let mut encrypted = volume(Some(A));
    encrypted.encrypted = Some(true);
    let pointer = pointer(Some(A), None, None);
    let plan_of = |volume| plan(&single(data(Some(volume))), &pointer).expect("a plan");
    assert_eq!(shown(&plan_of(encrypted.clone())), "keep, old []");
    // No node starts from an encrypted snapshot with this.
    encrypted.encrypted = Some(false);
    assert_eq!(shown(&plan_of(encrypted)), "new");
}

#[test]
fn template_without_data_volume_gets_one() {
    let template = single(data(None));
    let settings = Ok(NewVolume {
        iops: 3000,
        throughput_mibps: 125,
        rate: 300,
    });
    let pointer = pointer(Some(A), None, None);
    let plan = template.plan(&opt_in(), Some(&pointer), &Image::default(), &settings);
    let plan = plan.expect("a plan");
    let new = &new_version(&plan).data;
    assert_eq!(new.block_device_mappings().len(), 2);
    let volume = data_volume(new).expect("a data volume");
    assert_eq!(volume.volume_type(), Some(&VolumeType::Gp3));
    assert_eq!(volume.volume_size(), Some(50));
    assert_eq!(volume.volume_initialization_rate(), Some(300));
    assert_eq!(volume.delete_on_termination(), Some(true));
    assert_eq!(volume.encrypted(), None);
    // A template without any parameters works, too.
    let empty = single(ResponseLaunchTemplateData::builder().build());
    let plan = empty.plan(&opt_in(), Some(&pointer), &Image::default(), &settings);
    let plan = plan.expect("a plan");
    assert_eq!(new_version(&plan).data.block_device_mappings().len(), 1);
}

#[test]
fn refusals_have_a_remedy() {
    let mut twice = data(Some(volume(None)));
    let mappings = twice.block_device_mappings.as_mut().expect("it has two");
    mappings.push(mappings[1].clone());
    let mut none = data(Some(volume(None)));
    let mappings = none.block_device_mappings.as_mut().expect("it has two");
    mappings[1].no_device = Some(String::new());
    let stable = pointer(Some(A), None, None);
    let arm = Image {
        architecture: Some(Architecture::Arm64),
        release: None,
    };
    let old = Image {
        architecture: Some(Architecture::X86_64),
        release: "1.49.0".parse().ok(),
    };
    let good = template(&[B], 1, &[]);
    let unknown = Err("this Region has no configuration".to_owned());
    let with_image = |image| {
        let plan = good.plan(&opt_in(), Some(&stable), image, &unknown);
        plan.expect_err("a refusal").to_string()
    };
    let refusal = |template: &Template, pointer: Option<&Pointer>| {
        let plan = template.plan(&opt_in(), pointer, &Image::default(), &unknown);
        plan.expect_err("a refusal").to_string()
    };
    insta::assert_snapshot!(
        [
            refusal(&good, None),
            refusal(&good, Some(&pointer(None, None, Some(B)))),
            refusal(&template(&[B], 7, &[]), Some(&stable)),
            refusal(&single(data(None)), Some(&stable)),
            refusal(&single(twice), Some(&stable)),
            refusal(&single(none), Some(&stable)),
            with_image(&arm),
            with_image(&old),
        ]
        .join("\n")
    );
}
