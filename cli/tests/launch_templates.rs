//! `prepull templates` against fakes of EC2 and EKS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_eks::operation::describe_nodegroup::DescribeNodegroupOutput;
use aws_sdk_eks::operation::describe_update::DescribeUpdateOutput;
use aws_sdk_eks::operation::list_clusters::{ListClustersError, ListClustersOutput};
use aws_sdk_eks::operation::list_nodegroups::ListNodegroupsOutput;
use aws_sdk_eks::operation::update_nodegroup_version::UpdateNodegroupVersionOutput;
use aws_sdk_eks::types::builders::NodegroupBuilder;
use aws_sdk_eks::types::{
    AmiTypes, ErrorCode, ErrorDetail, LaunchTemplateSpecification, Nodegroup, NodegroupStatus,
    Update, UpdateStatus,
};
use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client, mock};
use clap::Parser as _;
use jiff::Timestamp;
use prepull::launch_templates::{GroupResult, LaunchTemplatesReport, run_with};
use prepull::{Args, Command, Exit};
use prepull_aws::ec2;
use prepull_aws::ec2::operation::create_launch_template_version::CreateLaunchTemplateVersionOutput;
use prepull_aws::ec2::operation::delete_launch_template_versions::DeleteLaunchTemplateVersionsOutput;
use prepull_aws::ec2::operation::describe_instances::DescribeInstancesOutput;
use prepull_aws::ec2::operation::describe_launch_template_versions::DescribeLaunchTemplateVersionsOutput;
use prepull_aws::ec2::operation::describe_launch_templates::DescribeLaunchTemplatesOutput;
use prepull_aws::ec2::operation::modify_launch_template::ModifyLaunchTemplateOutput;
use prepull_aws::ec2::types::{
    Instance, InstanceState, InstanceStateName, LaunchTemplate, LaunchTemplateBlockDeviceMapping,
    LaunchTemplateEbsBlockDevice, LaunchTemplateVersion, Reservation, ResponseLaunchTemplateData,
};
use prepull_aws::tag;
use prepull_domain::{Decision, Promotion, PublishedSnapshot};
use prepull_testing::{FakeAws, manifest};
use serde_json::json;

const ID: &str = "lt-0123456789abcdef0";
const OLD: &str = "snap-0123456789abcdef0";
const OTHER: &str = "snap-0123456789abcdef2";
const NEW: &str = "snap-0123456789abcdef1";
/// Release of the builder, as EKS shows it.
const RELEASE: &str = "1.57.0-0123abcd";
const POINTER: &str = "/prepull/web/x86_64/pointer";

fn now() -> Timestamp {
    "2026-01-02T06:10:00Z".parse().unwrap()
}

/// The launch template `web`. Clones share it.
#[derive(Clone, Default)]
struct Template(Arc<Mutex<State>>);

struct State {
    tags: Vec<(&'static str, &'static str)>,
    default: i64,
    versions: Vec<LaunchTemplateVersion>,
    /// Client tokens with the versions that they created.
    tokens: BTreeMap<String, LaunchTemplateVersion>,
    /// Whether EC2 lists the versions and the default version from before the run. Its API is eventually consistent.
    is_stale: bool,
    /// Account whose stable snapshot becomes [`OTHER`] during the next creation.
    promotes: Option<Arc<FakeAws>>,
    /// Versions that running instances have.
    in_use: Vec<(i64, InstanceStateName)>,
    /// Size that EC2 stores instead of the requested one.
    stored_size: Option<i32>,
}

impl Default for State {
    fn default() -> Self {
        let volume = LaunchTemplateEbsBlockDevice::builder()
            .snapshot_id(OLD)
            .volume_size(100)
            .build();
        Self {
            tags: vec![("prepull/cache", "web"), ("prepull/architecture", "x86_64")],
            default: 1,
            versions: vec![version(1, None, volume)],
            tokens: BTreeMap::new(),
            is_stale: false,
            promotes: None,
            in_use: Vec::new(),
            stored_size: None,
        }
    }
}

fn version(
    number: i64,
    description: Option<&str>,
    volume: LaunchTemplateEbsBlockDevice,
) -> LaunchTemplateVersion {
    let mapping = LaunchTemplateBlockDeviceMapping::builder()
        .device_name("/dev/xvdb")
        .ebs(volume)
        .build();
    LaunchTemplateVersion::builder()
        .version_number(number)
        .set_version_description(description.map(str::to_owned))
        .launch_template_data(
            ResponseLaunchTemplateData::builder()
                .user_data("c2VjcmV0")
                .block_device_mappings(mapping)
                .build(),
        )
        .build()
}

impl Template {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the numbers and descriptions of the versions, and the default version.
    fn shown(&self) -> (Vec<String>, i64) {
        self.with(|state| {
            let versions = state.versions.iter().map(|version| {
                let description = version.version_description().unwrap_or("by a person");
                format!("{}: {description}", version.version_number().unwrap())
            });
            (versions.collect(), state.default)
        })
    }

    fn rules(&self) -> Vec<Rule> {
        let [list, read, create, modify, delete, instances] = [(); 6].map(|()| self.clone());
        vec![
            mock!(ec2::Client::describe_launch_templates).then_output(move || {
                list.with(|state| {
                    let tags = state.tags.iter().map(|(key, value)| tag(key, value));
                    let template = LaunchTemplate::builder()
                        .launch_template_id(ID)
                        .launch_template_name("web")
                        .set_tags(Some(tags.collect()))
                        .build();
                    DescribeLaunchTemplatesOutput::builder()
                        .launch_templates(template)
                        .build()
                })
            }),
            mock!(ec2::Client::describe_launch_template_versions).then_compute_output(
                move |request| {
                    read.with(|state| {
                        let wanted = request.versions();
                        let is_stale = state.is_stale && wanted.is_empty();
                        let found = state.versions.iter().filter(|version| {
                            let number = version.version_number().unwrap();
                            (wanted.is_empty() || wanted.contains(&number.to_string()))
                                && (number == 1 || !is_stale)
                        });
                        let default = if is_stale { 1 } else { state.default };
                        let found = found.cloned().map(|mut version| {
                            version.default_version = Some(version.version_number == Some(default));
                            version
                        });
                        DescribeLaunchTemplateVersionsOutput::builder()
                            .set_launch_template_versions(Some(found.collect()))
                            .build()
                    })
                },
            ),
            mock!(ec2::Client::create_launch_template_version).then_compute_output(
                move |request| {
                    create.with(|state| {
                        if let Some(aws) = state.promotes.take() {
                            let pointer = aws.parameter(POINTER).unwrap();
                            aws.set_parameter(POINTER, &pointer.replace(NEW, OTHER));
                        }
                        let given = request.launch_template_data().unwrap();
                        let ebs = given.block_device_mappings()[0].ebs().unwrap();
                        let volume = LaunchTemplateEbsBlockDevice::builder()
                            .set_snapshot_id(ebs.snapshot_id.clone())
                            .set_volume_size(state.stored_size.or(ebs.volume_size));
                        let number = state.versions.last().unwrap().version_number().unwrap();
                        let created =
                            version(number + 1, request.version_description(), volume.build());
                        let token = request.client_token().unwrap().to_owned();
                        let versions = &mut state.versions;
                        let created = state.tokens.entry(token).or_insert_with(|| {
                            versions.push(created.clone());
                            created
                        });
                        CreateLaunchTemplateVersionOutput::builder()
                            .launch_template_version(created.clone())
                            .build()
                    })
                },
            ),
            mock!(ec2::Client::modify_launch_template).then_compute_output(move |request| {
                let default = request.default_version().unwrap().parse().unwrap();
                modify.with(|state| state.default = default);
                ModifyLaunchTemplateOutput::builder().build()
            }),
            mock!(ec2::Client::delete_launch_template_versions).then_compute_output(
                move |request| {
                    delete.with(|state| {
                        state.versions.retain(|version| {
                            let number = version.version_number().unwrap().to_string();
                            !request.versions().contains(&number)
                        });
                    });
                    DeleteLaunchTemplateVersionsOutput::builder().build()
                },
            ),
            mock!(ec2::Client::describe_instances)
                .match_requests(|request| request.filters()[0].values() == [ID])
                .then_output(move || {
                    let versions = instances.with(|state| state.in_use.clone());
                    let found = versions.into_iter().map(|(version, state)| {
                        Instance::builder()
                            .instance_id("i-0123456789abcdef0")
                            .state(InstanceState::builder().name(state).build())
                            .tags(tag("aws:ec2launchtemplate:version", &version.to_string()))
                            .build()
                    });
                    let reservation = Reservation::builder().set_instances(Some(found.collect()));
                    DescribeInstancesOutput::builder()
                        .reservations(reservation.build())
                        .build()
                }),
        ]
    }
}

/// Returns an account whose cache `web` published [`OLD`] and then [`NEW`] with this promotion.
async fn account(template: &Template, promotion: Promotion) -> FakeAws {
    let aws = FakeAws::new()
        .with_parameters(&[])
        .with_snapshots([])
        .with_event_bus()
        .ec2(template.rules());
    let published = [
        (OLD, "2026-01-01T00:00:00Z", Promotion::Immediate),
        (NEW, "2026-01-02T00:00:00Z", promotion),
    ];
    for (snapshot, planned_at, promotion) in published {
        let mut manifest = manifest(snapshot);
        manifest["planned_at"] = json!(planned_at);
        let manifest = serde_json::from_value(manifest).unwrap();
        let decision = Decision::Publish {
            snapshot: Box::new(PublishedSnapshot::new(&manifest, [].into())),
            promotion,
        };
        aws.decide(&decision, now()).await;
    }
    aws
}

fn client(rules: &[&Rule]) -> aws_sdk_eks::Client {
    let interceptor = MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny);
    let interceptor = rules
        .iter()
        .fold(interceptor, |all, rule| all.with_rule(rule));
    let credentials = aws_sdk_eks::config::Credentials::new("test", "test", None, None, "test");
    aws_sdk_eks::Client::from_conf(
        aws_sdk_eks::Config::builder()
            .behavior_version(aws_sdk_eks::config::BehaviorVersion::latest())
            .region(aws_sdk_eks::config::Region::new("eu-west-1"))
            .credentials_provider(credentials)
            .retry_config(aws_sdk_eks::config::retry::RetryConfig::disabled())
            .http_client(create_mock_http_client())
            .interceptor(interceptor)
            .build(),
    )
}

async fn update(aws: &FakeAws, eks: &[&Rule], options: &str) -> LaunchTemplatesReport {
    let command = format!("prepull templates {options}");
    let args = Args::try_parse_from(command.split_whitespace()).unwrap();
    let Command::LaunchTemplates(args) = args.command else {
        panic!("this is not `templates`");
    };
    run_with(&aws.clients(), &client(eks), &args, now())
        .await
        .unwrap()
}

#[tokio::test]
async fn dry_run_shows_changes_and_writes_nothing() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let report = update(&aws, &[], "").await;
    assert_eq!(report.exit(), Exit::Done);
    insta::assert_snapshot!(report);
    assert_eq!(template.shown(), (vec!["1: by a person".to_owned()], 1));
}

#[tokio::test]
async fn promotion_moves_the_default_version_once() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let report = update(&aws, &[], "--apply").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    insta::assert_snapshot!(report);
    let versions = vec!["1: by a person".to_owned(), format!("2: prepull {NEW}")];
    assert_eq!(template.shown(), (versions.clone(), 2));
    let again = update(&aws, &[], "--apply").await;
    assert!(
        again
            .to_string()
            .contains("has snap-0123456789abcdef1 in default version 2")
    );
    assert_eq!(template.shown(), (versions, 2));
    let token = template.with(|state| state.tokens.keys().next().cloned().unwrap());
    assert!(token.is_ascii() && token.len() <= 128, "{token}");
}

#[tokio::test]
async fn template_follows_only_its_channel() {
    let template = Template::default();
    let aws = account(&template, Promotion::Manual).await;
    let report = update(&aws, &[], "--apply").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    assert_eq!(template.shown(), (vec!["1: by a person".to_owned()], 1));
    template.with(|state| state.tags.push(("prepull/channel", "candidate")));
    let report = update(&aws, &[], "--apply").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    let versions = vec!["1: by a person".to_owned(), format!("2: prepull {NEW}")];
    assert_eq!(template.shown(), (versions, 2));
}

#[tokio::test]
async fn two_callers_create_one_version() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    update(&aws, &[], "--apply").await;
    // The second caller read the template before the first one wrote it.
    template.with(|state| state.is_stale = true);
    let second = update(&aws, &[], "--apply").await;
    assert_eq!(second.exit(), Exit::Done, "{second}");
    let versions = vec!["1: by a person".to_owned(), format!("2: prepull {NEW}")];
    assert_eq!(template.shown(), (versions, 2));
}

#[tokio::test]
async fn promotion_during_the_run_leaves_no_version() {
    let template = Template::default();
    let aws = Arc::new(account(&template, Promotion::Immediate).await);
    template.with(|state| state.promotes = Some(Arc::clone(&aws)));
    let report = update(&aws, &[], "--apply").await;
    assert_eq!(report.exit(), Exit::Failed);
    let text = report.to_string();
    assert!(
        text.contains("the stable snapshot changed during the run. Run the command again"),
        "{text}"
    );
    assert_eq!(template.shown(), (vec!["1: by a person".to_owned()], 1));
    let again = update(&aws, &[], "--apply").await;
    assert_eq!(again.exit(), Exit::Done, "{again}");
    let versions = vec!["1: by a person".to_owned(), format!("2: prepull {OTHER}")];
    assert_eq!(template.shown(), (versions, 2));
}

/// Adds version 2 with [`OTHER`], and version 3 with [`NEW`], which is the default version.
fn add_own_versions(template: &Template) {
    template.with(|state| {
        for (number, snapshot) in [(2, OTHER), (3, NEW)] {
            let volume = LaunchTemplateEbsBlockDevice::builder()
                .snapshot_id(snapshot)
                .volume_size(100);
            let description = format!("prepull {snapshot}");
            let version = version(number, Some(&description), volume.build());
            state.versions.push(version);
        }
        state.default = 3;
    });
}

#[tokio::test]
async fn old_version_is_deleted_if_nothing_uses_it() {
    let template = Template::default();
    add_own_versions(&template);
    let aws = account(&template, Promotion::Immediate).await;
    let all = template.shown();
    let with_group = node_group(&group().build(), UpdateStatus::Successful);
    let with_group: Vec<_> = with_group.iter().collect();
    let nothing = no_node_group();

    // A node group has version 2.
    template.with(|state| state.default = 3);
    let moved = group().launch_template(used("2")).build();
    let with_version_2 = node_group(&moved, UpdateStatus::Successful);
    let with_version_2: Vec<_> = with_version_2.iter().collect();
    let report = update(&aws, &with_version_2, "--apply").await;
    assert_eq!((report.exit(), template.shown()), (Exit::Done, all.clone()));

    // An instance of an Auto Scaling group has it.
    template.with(|state| state.in_use = vec![(2, InstanceStateName::Running)]);
    let report = update(&aws, &[&nothing], "--apply").await;
    assert_eq!((report.exit(), template.shown()), (Exit::Done, all.clone()));
    template.with(|state| {
        state.in_use = vec![
            (1, InstanceStateName::Running),
            (2, InstanceStateName::Terminated),
            (3, InstanceStateName::Running),
        ];
    });

    // Nobody knows.
    let denied = mock!(aws_sdk_eks::Client::list_clusters)
        .then_error(|| ListClustersError::unhandled("no permission"));
    let report = update(&aws, &[&denied], "--apply").await;
    assert_eq!(
        (report.exit(), template.shown()),
        (Exit::Failed, all.clone())
    );
    assert!(report.to_string().contains("old versions stay"), "{report}");

    let dry = update(&aws, &with_group, "").await;
    assert!(dry.to_string().contains("- version 2"), "{dry}");
    assert_eq!(template.shown(), all);
    let report = update(&aws, &with_group, "--apply").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    let left = vec!["1: by a person".to_owned(), format!("3: prepull {NEW}")];
    assert_eq!(template.shown(), (left, 3));
}

#[tokio::test]
async fn moving_the_default_version_deletes_nothing() {
    let template = Template::default();
    add_own_versions(&template);
    template.with(|state| {
        state.versions.pop();
        state.default = 2;
    });
    let aws = account(&template, Promotion::Immediate).await;
    let report = update(&aws, &[], "--apply").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    let (versions, default) = template.shown();
    assert_eq!((versions.len(), default), (3, 3), "{versions:?}");
}

#[tokio::test]
async fn differing_version_is_deleted_and_never_default() {
    let template = Template::default();
    template.with(|state| state.stored_size = Some(8));
    let aws = account(&template, Promotion::Immediate).await;
    let report = update(&aws, &[], "--apply").await;
    assert_eq!(report.exit(), Exit::Failed);
    let text = report.to_string();
    assert!(
        text.contains("VolumeSize of /dev/xvdb is 8 instead of 100"),
        "{text}"
    );
    assert_eq!(template.shown(), (vec!["1: by a person".to_owned()], 1));
}

#[tokio::test]
async fn invalid_tags_and_unknown_names_are_refused() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let report = update(&aws, &[], "wbe --apply").await;
    assert_eq!(report.exit(), Exit::Failed);
    assert!(
        report.to_string().contains("no such launch template"),
        "{report}"
    );
    let ring = update(&aws, &[], "--ring canary --apply").await;
    assert_eq!(ring.exit(), Exit::Failed);
    for tags in [
        vec![("prepull/cache", "web")],
        vec![
            ("prepull/cache", "web"),
            ("prepull/architecture", "x86_64"),
            ("prepull/channel", "beta"),
        ],
    ] {
        template.with(|state| state.tags = tags);
        let report = update(&aws, &[], "--apply").await;
        assert_eq!(report.exit(), Exit::Failed);
        let text = report.to_string();
        assert!(text.contains("left alone: the tag `prepull/"), "{text}");
    }
    assert_eq!(template.shown(), (vec!["1: by a person".to_owned()], 1));
}

#[tokio::test]
async fn ring_ignores_mistakes_of_other_rings() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let mistake = [("prepull/ring", "canary"), ("prepull/chanel", "stable")];
    template.with(|state| state.tags.extend(mistake));
    let other = update(&aws, &[], "--ring production").await;
    assert_eq!(other.launch_templates, []);
    let own = update(&aws, &[], "--ring canary").await;
    assert!(
        own.to_string()
            .contains("the tag `prepull/chanel` is unknown"),
        "{own}"
    );
}

/// Returns the rule of EKS in a Region without clusters.
fn no_node_group() -> Rule {
    mock!(aws_sdk_eks::Client::list_clusters).then_output(|| ListClustersOutput::builder().build())
}

/// Returns a version of the launch template.
fn used(version: &str) -> LaunchTemplateSpecification {
    let template = LaunchTemplateSpecification::builder().id(ID);
    template.version(version).build()
}

/// Returns a node group with version 1 of the template and the release of the builder.
fn group() -> NodegroupBuilder {
    Nodegroup::builder()
        .status(NodegroupStatus::Active)
        .ami_type(AmiTypes::BottlerocketX8664)
        .release_version(RELEASE)
        .launch_template(used("1"))
}

/// Returns the rules of EKS for one node group. Its update ends as `status`.
fn node_group(group: &Nodegroup, status: UpdateStatus) -> Vec<Rule> {
    let group = group.clone();
    let error = ErrorDetail::builder()
        .error_code(ErrorCode::PodEvictionFailure)
        .error_message("a budget forbids it")
        .build();
    let ended = Update::builder().status(status).errors(error).build();
    vec![
        mock!(aws_sdk_eks::Client::list_clusters)
            .then_output(|| ListClustersOutput::builder().clusters("production").build()),
        mock!(aws_sdk_eks::Client::list_nodegroups)
            .then_output(|| ListNodegroupsOutput::builder().nodegroups("web").build()),
        mock!(aws_sdk_eks::Client::describe_nodegroup).then_output(move || {
            DescribeNodegroupOutput::builder()
                .nodegroup(group.clone())
                .build()
        }),
        // Only an update to the default version that keeps the release is answered.
        mock!(aws_sdk_eks::Client::update_nodegroup_version)
            .match_requests(|request| {
                request.release_version() == Some(RELEASE)
                    && request
                        .launch_template()
                        .and_then(|template| template.version())
                        == Some("2")
            })
            .then_output(|| {
                let update = Update::builder().id("update-1").build();
                UpdateNodegroupVersionOutput::builder()
                    .update(update)
                    .build()
            }),
        mock!(aws_sdk_eks::Client::describe_update).then_output(move || {
            DescribeUpdateOutput::builder()
                .update(ended.clone())
                .build()
        }),
    ]
}

#[tokio::test]
async fn node_group_gets_the_default_version_and_keeps_its_release() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let rules = node_group(&group().build(), UpdateStatus::Successful);
    let rules: Vec<_> = rules.iter().collect();
    let update_call = rules[3];
    let report = update(&aws, &rules, "--apply").await;
    assert_eq!((report.node_groups, update_call.num_calls()), (None, 0));
    let dry = update(&aws, &rules, "--update-node-groups").await;
    assert!(dry.to_string().contains("would be updated"), "{dry}");
    assert_eq!(update_call.num_calls(), 0);
    let report = update(&aws, &rules, "--apply --update-node-groups").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    assert_eq!(update_call.num_calls(), 1);
    let groups = report.node_groups.unwrap().groups;
    assert_eq!(groups[0].result, GroupResult::Updated);
    assert_eq!((groups[0].from.as_str(), groups[0].to), ("1", Some(2)));
}

#[tokio::test]
async fn failed_update_of_a_node_group_reports_the_cause() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let rules = node_group(&group().build(), UpdateStatus::Failed);
    let rules: Vec<_> = rules.iter().collect();
    let report = update(&aws, &rules, "--apply --update-node-groups").await;
    assert_eq!(report.exit(), Exit::Failed);
    let text = report.to_string();
    assert!(
        text.contains("failed: PodEvictionFailure: a budget forbids it"),
        "{text}"
    );
}

#[tokio::test]
async fn unusable_node_group_is_left_alone() {
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let with_status = |status| group().status(status).build();
    let old = || group().release_version("1.56.3-0123abcd");
    for (group, expected) in [
        (
            with_status(NodegroupStatus::Updating),
            "is UPDATING. Run the command again after that",
        ),
        (
            with_status(NodegroupStatus::Deleting),
            "left alone: it is being deleted. Run the command again after its end",
        ),
        (
            with_status(NodegroupStatus::CreateFailed),
            "left alone: its status is CREATE_FAILED. Correct the cause in its health issues, or delete it",
        ),
        (
            with_status(NodegroupStatus::DeleteFailed),
            "left alone: its status is DELETE_FAILED. Correct the cause in its health issues, or delete it",
        ),
        (
            old().build(),
            "left alone: the node group has Bottlerocket 1.56.3, and the snapshot needs 1.57.0 or newer. Update its release \
             version first",
        ),
    ] {
        let rules = node_group(&group, UpdateStatus::Successful);
        let rules: Vec<_> = rules.iter().collect();
        for options in ["--update-node-groups", "--apply --update-node-groups"] {
            let report = update(&aws, &rules, options).await;
            assert_eq!(report.exit(), Exit::Failed);
            let text = report.to_string();
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(rules[3].num_calls(), 0);
    }
    // Other AMIs have other numbers.
    let other = old().ami_type(AmiTypes::Al2023X8664Standard).build();
    let rules = node_group(&other, UpdateStatus::Successful);
    let rules: Vec<_> = rules.iter().collect();
    let report = update(&aws, &rules, "--update-node-groups").await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
}

#[tokio::test]
async fn footer_claims_only_what_was_checked() {
    const ALL: &str = "Every node group has the default version";
    let template = Template::default();
    let aws = account(&template, Promotion::Immediate).await;
    let (rules, nothing) = (
        node_group(&group().build(), UpdateStatus::Successful),
        no_node_group(),
    );
    let rules: Vec<_> = rules.iter().collect();
    let dry = update(&aws, &rules, "--update-node-groups").await;
    assert!(!dry.to_string().contains(ALL), "{dry}");
    // The new version does not exist yet.
    assert!(dry.to_string().contains("1 -> new"), "{dry}");
    let dry = update(&aws, &[&nothing], "--update-node-groups").await;
    assert!(!dry.to_string().contains(ALL), "{dry}");
    template.with(|state| state.tags.push(("prepull/channel", "beta")));
    let refused = update(&aws, &[&nothing], "--update-node-groups").await;
    assert!(!refused.to_string().contains(ALL), "{refused}");
    assert!(refused.to_string().contains("may be missing"), "{refused}");
    template.with(|state| state.tags.pop());
    let done = update(&aws, &[&nothing], "--apply --update-node-groups").await;
    assert!(done.to_string().contains(ALL), "{done}");
}
