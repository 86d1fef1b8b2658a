//! Tests of plan-build against mocked answers of ECR, EC2 and Step Functions.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use jiff::Timestamp;
use plan_build::handle;
use prepull_aws::ec2::types::{Snapshot, SnapshotState};
use prepull_aws::ecr::operation::batch_get_image::{BatchGetImageError, BatchGetImageOutput};
use prepull_aws::ecr::types::{Image, ImageFailure, ImageFailureCode, ImageIdentifier};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{Deadline, ecr, tag};
use prepull_domain::build::payload::{
    Base, DiskUsage, Plan, PlanInput, PlanTime, Target, VerificationPlan,
};
use prepull_domain::{
    Architecture, Bytes, ManifestImage, Pointer, PublishedSnapshot, StageError, VerificationLevel,
};
use prepull_testing::{FakeAws, STATE_MACHINE_ARN, configuration, execution, execution_arn};
use serde_json::{Value, json};

const SNAPSHOT: &str = "snap-0123456789abcdef0";
/// A snapshot that was deleted.
const GONE: &str = "snap-00000000000000001";
const POINTER: &str = "/prepull/web/x86_64/snapshot-id";
const OWN: (&str, i64, &str) = ("own", 100, "web");

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

/// The environment of plan-build. The default is a cache with one image for two platforms and no published snapshot.
struct World {
    config: Value,
    aws: FakeAws,
    /// The bytes in use on the published snapshot.
    used: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::with_executions(&[OWN])
    }
}

impl World {
    /// Returns a world with running executions, each with its name, start in seconds and cache.
    fn with_executions(running: &[(&str, i64, &str)]) -> Self {
        let executions = running
            .iter()
            .map(|(name, start, cache)| execution(name, cache, ExecutionStatus::Running, *start));
        let aws = FakeAws::new()
            .with_parameters(&[])
            .with_snapshots([])
            .with_executions(executions)
            .ecr([has_image(1_000)]);
        for architecture in ["x86_64", "arm64"] {
            let path = format!("/aws/service/bottlerocket/aws-k8s-1.33/{architecture}/latest");
            aws.set_parameter(&format!("{path}/image_id"), "ami-0123456789abcdef0");
            aws.set_parameter(&format!("{path}/image_version"), "1.57.0-ab12cd34");
        }
        Self {
            config: configuration(),
            aws,
            used: 3_000,
        }
    }

    /// Replaces the answer of ECR.
    fn ecr(mut self, rule: Rule) -> Self {
        self.aws = self.aws.ecr([rule]);
        self
    }

    async fn plan(&self) -> Result<Plan, StageError> {
        self.plan_of("web").await
    }

    async fn plan_of(&self, cache: &str) -> Result<Plan, StageError> {
        self.plan_at(PlanTime::AfterDebounce, cache).await
    }

    async fn early_plan(&self) -> Result<Plan, StageError> {
        self.plan_at(PlanTime::Early, "web").await
    }

    async fn plan_at(&self, time: PlanTime, cache: &str) -> Result<Plan, StageError> {
        let config = self.config.to_string();
        self.aws.set_parameter("/prepull/config/web", &config);
        let input = PlanInput {
            cache: cache.to_owned(),
            execution: execution_arn("own").parse().unwrap(),
            time,
        };
        let deadline = Deadline::after(Duration::ZERO);
        handle(&self.aws.clients(), STATE_MACHINE_ARN, input, deadline).await
    }

    /// Runs plan-build and returns the only target of its plan.
    async fn target(&self) -> Target {
        match self.plan().await.unwrap() {
            Plan::Build { mut targets } if targets.len() == 1 => targets.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Publishes a snapshot with the images of `target`, in the state that publish-snapshot produces. A repeated call only
    /// replaces the manifest.
    fn publish(&mut self, target: &Target, version: &str) {
        self.aws.set_parameter(POINTER, SNAPSHOT);
        let mut manifest = prepull_testing::manifest(SNAPSHOT);
        manifest["content_key"] = json!(target.content_key);
        manifest["node"]["bottlerocket_version"] = version.into();
        manifest["used"] = self.used.into();
        manifest["fresh"] = json!({"packed": 1_000, "used": 3_000});
        manifest["packed"] = 1_000.into();
        let images = target.images.iter().map(ManifestImage::from);
        manifest["images"] = json!(images.collect::<Vec<_>>());
        let parameter = format!("/prepull/web/x86_64/snapshots/{SNAPSHOT}");
        self.aws.set_parameter(&parameter, &manifest.to_string());
        if self.aws.snapshots().is_empty() {
            let snapshot = Snapshot::builder()
                .snapshot_id(SNAPSHOT)
                .state(SnapshotState::Completed)
                .volume_size(50)
                .tags(tag("prepull:content-key", target.content_key.as_str()));
            self.aws = self.aws.clone().with_snapshots([snapshot.build()]);
        }
    }
}

#[tokio::test]
async fn default_verification_depends_on_the_size() {
    let small = World::default().target().await.verification;
    assert_eq!(small.level, VerificationLevel::Full);
    assert!(small.amis.is_empty(), "{small:?}");
    let large = World::default().ecr(has_image(5_000_000_000));
    let level = large.target().await.verification.level;
    assert_eq!(level, VerificationLevel::Records);
}

#[tokio::test]
async fn configured_releases_have_their_amis() {
    let mut world = World::default();
    world.config["verification"] = json!({"level": "records", "releases": ["1.44.0"]});
    let error = world.plan().await.unwrap_err();
    assert_eq!(error.name(), "InvalidConfig");
    assert!(
        error.to_string().contains("`verification.releases`"),
        "{error}"
    );
    let path = "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/1.44.0";
    let (id, version) = ("ami-0123456789abcdef1", "1.44.0-ab12cd34");
    world.aws.set_parameter(&format!("{path}/image_id"), id);
    world
        .aws
        .set_parameter(&format!("{path}/image_version"), version);
    let verification = world.target().await.verification;
    assert_eq!(verification.level, VerificationLevel::Records);
    let amis = verification.amis.iter().map(|ami| ami.id.as_str());
    assert_eq!(amis.collect::<Vec<_>>(), [id]);
    // Nothing boots, so no AMI is needed.
    world.config["verification"] = json!({"level": "off", "releases": ["1.45.0"]});
    let verification = world.target().await.verification;
    assert_eq!(verification, VerificationPlan::default());
}

#[tokio::test]
async fn unusable_bottlerocket_release_is_refused() {
    let world = World::default();
    let path = "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_version";
    world.aws.set_parameter(path, "1.58.0-ab12cd34");
    let error = world.plan().await.unwrap_err();
    assert_eq!(error.name(), "InvalidConfig");
    assert!(
        error
            .to_string()
            .contains("Set `bottlerocket_version` to 1.57.0, 1.59.0 or later"),
        "{error}"
    );
}

#[tokio::test]
async fn ecr_host_without_login_on_the_builder_is_refused() {
    let mut world = World::default();
    world.config["images"] = json!(["123456789012.dkr-ecr.eu-west-1.on.aws/team/api:v1"]);
    assert!(matches!(world.plan().await, Ok(Plan::Build { .. })));
    let path = "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_version";
    world.aws.set_parameter(path, "1.53.0-ab12cd34");
    let error = world.plan().await.unwrap_err();
    assert_eq!(error.name(), "InvalidConfig");
    assert!(
        error
            .to_string()
            .contains("Set `bottlerocket_version` to 1.54.0 or later"),
        "{error}"
    );
}

fn in_ecr(digest: &str, manifest: &Value) -> BatchGetImageOutput {
    let id = ImageIdentifier::builder().image_digest(digest).build();
    let image = Image::builder()
        .image_id(id)
        .image_manifest(manifest.to_string());
    BatchGetImageOutput::builder().images(image.build()).build()
}

/// Returns a manifest with one layer of `size` bytes.
fn manifest(size: u64) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest('e'), "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest('f'), "size": size}]
    })
}

/// Returns a rule by which ECR returns an index with `amd64`, `arm64/v8` and an attestation.
fn has_image(size: u64) -> Rule {
    let entry = |digit, os: &str, architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(digit),
            "size": 500,
            "platform": {"os": os, "architecture": architecture}
        })
    };
    let mut arm = entry('c', "linux", "arm64");
    arm["platform"]["variant"] = "v8".into();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry('d', "unknown", "unknown"), arm, entry('b', "linux", "amd64")]
    });
    mock!(ecr::Client::batch_get_image).then_compute_output(move |request| {
        assert_eq!(request.registry_id(), Some("123456789012"));
        let id = &request.image_ids()[0];
        match id.image_digest() {
            Some(digest) => in_ecr(digest, &manifest(size)),
            None => in_ecr(&digest('a'), &index),
        }
    })
}

/// Returns a rule by which ECR returns a manifest without an index.
fn has_single_manifest() -> Rule {
    mock!(ecr::Client::batch_get_image).then_output(|| in_ecr(&digest('9'), &manifest(1)))
}

fn ecr_fails(code: &'static str) -> Rule {
    mock!(ecr::Client::batch_get_image).then_error(move || {
        let error = ecr::error::ErrorMetadata::builder()
            .code(code)
            .message("no");
        BatchGetImageError::generic(error.build())
    })
}

fn image_is_missing() -> Rule {
    mock!(ecr::Client::batch_get_image).then_output(|| {
        let failure = ImageFailure::builder()
            .failure_code(ImageFailureCode::ImageNotFound)
            .failure_reason("Requested image not found");
        BatchGetImageOutput::builder()
            .failures(failure.build())
            .build()
    })
}

fn message(error: &StageError) -> String {
    format!("{}: {error}", error.name())
}

#[tokio::test]
async fn first_build_starts_empty_with_platform_digests() {
    let target = World::default().target().await;
    assert_eq!(target.images[0].digest.as_str(), digest('a'));
    assert_eq!(target.images[0].platform_digest.as_str(), digest('b'));
    assert_eq!(target.images[0].size, Bytes(1_000));
    assert_eq!(target.ami.version.to_string(), "1.57.0");
    assert_eq!(target.execution.as_str(), "own");
    assert_eq!(
        target.base,
        Base::Empty {
            reason: "no snapshot is published".into()
        }
    );
    let minutes = (target.give_up_at - target.planned_at).get_seconds() / 60;
    assert_eq!(minutes, 60);
    assert!(target.planned_at <= Timestamp::now());
}

#[tokio::test]
async fn each_architecture_becomes_a_target() {
    let mut world = World::default();
    world.config["architectures"] = json!(["x86_64", "arm64"]);
    let Ok(Plan::Build { targets }) = world.plan().await else {
        panic!("two targets are to be built");
    };
    let platforms: Vec<_> = targets
        .iter()
        .map(|target| target.images[0].platform_digest.to_string())
        .collect();
    assert_eq!(platforms, [digest('b'), digest('c')]);
    assert_eq!(targets[1].instance_types, ["m7g.2xlarge"]);
}

#[tokio::test]
async fn complete_published_snapshot_needs_no_build() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    let plan = world.plan().await.unwrap();
    assert_eq!(
        serde_json::to_value(plan).unwrap(),
        json!({"decision": "up-to-date", "snapshots": {"x86_64": SNAPSHOT}})
    );
}

#[tokio::test]
async fn tags_and_builder_settings_need_no_new_snapshot() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    world.config["tags"] = json!({"team": "platform"});
    world.config["builder"]["settings"] = json!({"https_proxy": "proxy.example.com:3128"});
    assert!(matches!(world.plan().await.unwrap(), Plan::UpToDate { .. }));
}

#[tokio::test]
async fn changed_image_builds_on_the_published_snapshot() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    world = world.ecr(has_single_manifest());
    assert_eq!(
        world.target().await.base,
        Base::Snapshot {
            snapshot_id: SNAPSHOT.parse().unwrap(),
            fresh: DiskUsage {
                packed: Bytes(1_000),
                used: Bytes(3_000)
            }
        }
    );
}

#[tokio::test]
async fn plan_marks_the_images_of_the_base() {
    let on_base = |target: &Target| -> Vec<_> {
        let images = target.images.iter();
        images.map(|image| image.on_base).collect()
    };
    let mut world = World::default();
    let target = world.target().await;
    assert_eq!(on_base(&target), [false]);
    world.publish(&target, "1.57.0");
    let same = target.images[0].reference.to_string();
    let retagged = same.replace(":v1", ":v2");
    let other = same.replace("/api", "/worker");
    world.config["images"] = json!([same, retagged, other]);
    assert_eq!(on_base(&world.target().await), [true, true, false]);
}

#[tokio::test]
async fn base_with_an_incomplete_manifest_has_unknown_images() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    let mut manifest = prepull_testing::manifest(SNAPSHOT);
    manifest["images"] = json!([ManifestImage::from(&target.images[0])]);
    manifest["more_images"] = json!({"pages": 1});
    let parameter = format!("/prepull/web/x86_64/snapshots/{SNAPSHOT}");
    world.aws.set_parameter(&parameter, &manifest.to_string());
    let decision = pointer("stable", SNAPSHOT).to_string();
    let parameter = "/prepull/web/x86_64/decisions/1";
    world.aws.set_parameter(parameter, &decision);
    world.config["pin_images"] = true.into();
    // The second page does not exist.
    let target = world.target().await;
    assert!(matches!(target.base, Base::Snapshot { .. }), "{target:?}");
    assert!(!target.images[0].on_base);
}

#[tokio::test]
async fn snapshot_with_much_stale_data_is_not_a_base() {
    let mut world = World::default();
    let target = world.target().await;
    world = world.ecr(has_single_manifest());
    world.used = 4_500;
    world.publish(&target, "1.57.0");
    assert!(matches!(world.target().await.base, Base::Snapshot { .. }));
    world.used = 4_501;
    world.publish(&target, "1.57.0");
    let Base::Empty { reason } = world.target().await.base else {
        panic!("a third of the volume is stale data");
    };
    assert_eq!(
        reason,
        format!("about 1.5 kB of the 4.5 kB on snapshot {SNAPSHOT} are stale data")
    );
}

#[tokio::test]
async fn snapshot_of_newer_bottlerocket_is_not_a_base() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.58.0");
    world.config["pin_images"] = true.into();
    let Base::Empty { reason } = world.target().await.base else {
        panic!("the snapshot is of a younger Bottlerocket");
    };
    assert!(reason.contains("1.58.0"), "{reason}");
}

#[tokio::test]
async fn deleted_published_snapshot_is_rebuilt() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    // Nobody can start from a snapshot of another ID.
    let json = prepull_testing::manifest(GONE).to_string();
    let manifest = format!("/prepull/web/x86_64/snapshots/{GONE}");
    world.aws.set_parameter(&manifest, &json);
    world.aws.set_parameter(POINTER, GONE);
    let Base::Empty { reason } = world.target().await.base else {
        panic!("there is no snapshot");
    };
    assert!(reason.contains("is gone"), "{reason}");
}

#[tokio::test]
async fn smaller_volume_starts_empty_even_if_nothing_else_changed() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    world.config["volume"]["size_gib"] = 20.into();
    let Base::Empty { reason } = world.target().await.base else {
        panic!("a volume cannot be smaller than its snapshot");
    };
    assert!(
        reason.contains("20 GiB") && reason.contains("50 GiB"),
        "{reason}"
    );
}

#[tokio::test]
async fn decision_of_a_newer_version_fails_the_plan() {
    let world = World::default();
    let parameter = "/prepull/web/x86_64/decisions/7";
    world.aws.set_parameter(parameter, r#"{"sequence": 7}"#);
    let error = world.plan().await.unwrap_err().to_string();
    assert!(error.contains(parameter), "{error}");
}

/// Returns the pointer of the published snapshot, with `id` in the role `role`.
fn pointer(role: &str, id: &str) -> Value {
    let snapshot = |id: &str| {
        let manifest = serde_json::from_value(prepull_testing::manifest(id)).unwrap();
        json!(PublishedSnapshot::new(&manifest, BTreeMap::new()))
    };
    let mut pointer = json!(Pointer::initial(None));
    pointer["sequence"] = 1.into();
    pointer["stable"] = snapshot(GONE);
    pointer[role] = snapshot(id);
    pointer["announced"] = true.into();
    pointer
}

#[tokio::test]
async fn newest_published_snapshot_is_the_base() {
    for role in ["candidate", "queued", "stable"] {
        let mut world = World::default();
        let target = world.target().await;
        world.publish(&target, "1.57.0");
        let decision = pointer(role, SNAPSHOT).to_string();
        world
            .aws
            .set_parameter("/prepull/web/x86_64/decisions/1", &decision);
        let stable = if role == "stable" { SNAPSHOT } else { GONE };
        world.aws.set_parameter(POINTER, stable);
        let Plan::UpToDate { snapshots } = world.plan().await.unwrap() else {
            panic!("the {role} snapshot has the content");
        };
        assert_eq!(snapshots[&Architecture::X86_64].as_str(), SNAPSHOT);

        // The decision was made, and its caller ended before nodes could see it.
        world.aws.set_parameter(POINTER, "snap-00000000000000002");
        let base = world.target().await.base;
        assert!(
            matches!(base, Base::Snapshot { snapshot_id, .. } if snapshot_id.as_str() == SNAPSHOT)
        );
    }
}

#[tokio::test]
async fn volume_too_small_for_the_images_is_rejected() {
    let world = World::default().ecr(has_image(30 << 30));
    let error = world.plan().await.unwrap_err();
    assert_eq!(error.name(), "InvalidConfig");
    assert!(error.to_string().contains("volume.size_gib"), "{error}");
}

#[tokio::test]
async fn unknown_cache_is_rejected() {
    for cache in ["unknown", "", "Not A Name"] {
        let error = World::default().plan_of(cache).await.unwrap_err();
        assert_eq!(error.name(), "InvalidConfig", "{cache}");
    }
}

#[tokio::test]
async fn unknown_bottlerocket_release_fails_with_its_version() {
    let mut world = World::default();
    world.config["bottlerocket_version"] = "1.2.3".into();
    let text = message(&world.plan().await.unwrap_err());
    for part in ["InvalidConfig", "aws-k8s-1.33", "1.2.3"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn unavailable_image_fails_with_its_reference_and_cause() {
    for (ecr, name) in [
        (image_is_missing(), "ImageNotFound"),
        (ecr_fails("RepositoryNotFoundException"), "ImageNotFound"),
        (ecr_fails("AccessDeniedException"), "RegistryDenied"),
        (ecr_fails("ThrottlingException"), "Throttled"),
    ] {
        let world = World::default().ecr(ecr);
        let error = world.plan().await.unwrap_err();
        assert_eq!(error.name(), name);
        if name != "Throttled" {
            assert!(error.to_string().contains("team/api:v1"), "{error}");
        }
    }
}

#[tokio::test]
async fn image_of_a_cache_without_imports_fails_with_the_input() {
    for ecr in [
        image_is_missing(),
        ecr_fails("RepositoryNotFoundException"),
        ecr_fails("AccessDeniedException"),
    ] {
        let error = World::default().ecr(ecr).plan().await.unwrap_err();
        let text = error.to_string();
        for part in [
            "`pull_through_cache_prefixes`",
            "`ecr:BatchImportUpstreamImage`",
            "`ecr:CreateRepository`",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn wrong_credentials_of_an_upstream_registry_are_denied() {
    let world = World::default().ecr(ecr_fails("UnableToGetUpstreamImageException"));
    let error = world.plan().await.unwrap_err();
    assert_eq!(error.name(), "RegistryDenied");
    assert!(
        error
            .to_string()
            .contains("Check the credentials of the pull-through cache"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_platform_fails_with_available_platforms() {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [{
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "digest": digest('b'),
            "size": 500,
            "platform": {"os": "linux", "architecture": "s390x"}
        }]
    });
    let ecr = mock!(ecr::Client::batch_get_image).then_output(move || in_ecr(&digest('a'), &index));
    let world = World::default().ecr(ecr);
    let text = message(&world.plan().await.unwrap_err());
    for part in ["ImageNotFound", "linux/amd64", "linux/s390x"] {
        assert!(text.contains(part), "{text}");
    }
}

// containerd does not compare the platform of a manifest that a reference names directly.
#[tokio::test]
async fn manifest_without_index_serves_both_architectures() {
    let mut world = World::default().ecr(has_single_manifest());
    world.config["architectures"] = json!(["x86_64", "arm64"]);
    let Ok(Plan::Build { targets }) = world.plan().await else {
        panic!("both architectures need a build");
    };
    for target in targets {
        assert_eq!(target.images[0].platform_digest.as_str(), digest('9'));
    }
}

#[tokio::test]
async fn unchanged_image_costs_one_request() {
    let rule = has_image(1_000);
    let mut world = World::default().ecr(rule.clone());
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    let before = rule.num_calls();
    assert!(matches!(world.plan().await, Ok(Plan::UpToDate { .. })));
    assert_eq!(rule.num_calls(), before + 1);
}

#[tokio::test]
async fn execution_waits_only_for_older_ones_of_its_cache() {
    let world = World::with_executions(&[("older", 50, "web"), OWN]);
    assert_eq!(world.plan().await.unwrap_err().name(), "StillRunning");
    let world = World::with_executions(&[("web-5", 50, "api"), OWN, ("newer", 150, "web")]);
    assert!(matches!(world.plan().await, Ok(Plan::Build { .. })));
}

#[tokio::test]
async fn executions_named_after_other_caches_are_not_described() {
    let night = 1_795_366_800;
    let world = World::with_executions(&[
        ("own", night, "web"),
        ("api-29922780", night, "api"),
        ("worker-29922780", night, "worker"),
        ("jobs-manual-1795366798123", night, "jobs"),
        ("by-hand", night, "jobs"),
    ]);
    assert!(matches!(world.plan().await, Ok(Plan::Build { .. })));
    // Its own execution, and the one whose name does not contain its cache.
    assert_eq!(
        world.aws.calls("states:DescribeExecution"),
        [execution_arn("own"), execution_arn("by-hand")]
    );
}

#[tokio::test]
async fn queued_executions_yield_to_the_newest() {
    let world = World::with_executions(&[
        ("older", 50, "web"),
        OWN,
        ("newer", 150, "web"),
        ("newest", 200, "web"),
    ]);
    assert_eq!(
        world.plan().await,
        Ok(Plan::Superseded {
            by: "newest".parse().unwrap()
        })
    );
}

#[tokio::test]
async fn early_plan_reads_no_manifests_and_launches_the_same() {
    let rule = has_image(1_000);
    let world = World::default().ecr(rule.clone());
    let Ok(Plan::Build { targets: early }) = world.early_plan().await else {
        panic!("a cache without a snapshot needs a build");
    };
    assert_eq!(rule.num_calls(), 1);
    let target = world.target().await;
    assert_eq!(early.len(), 1);
    assert_eq!(early[0].launch_key(), target.launch_key());
    assert_eq!(early[0].content_key, target.content_key);
}

#[tokio::test]
async fn early_plan_does_not_wait_for_older_builds() {
    let world = World::with_executions(&[("older", 50, "web"), OWN]);
    assert_eq!(
        world.early_plan().await,
        Ok(Plan::Queued {
            behind: "older".parse().unwrap()
        })
    );
}

#[tokio::test]
async fn early_plan_of_an_unchanged_cache_needs_no_build() {
    let mut world = World::default();
    let target = world.target().await;
    world.publish(&target, "1.57.0");
    assert!(matches!(
        world.early_plan().await,
        Ok(Plan::UpToDate { .. })
    ));
}
