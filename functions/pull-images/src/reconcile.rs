//! Decides the next step on a builder from the builder's status alone.

use std::collections::BTreeMap;
use std::fmt;

use prepull_domain::build::payload::{Base, Pinning, PlannedImage, Target};
use prepull_domain::node::{
    Disk, ImageName, ImageStatus, MAX_PARAMETER_BYTES, NameRecord, PullAttempt, PullState, Usable,
};
use prepull_domain::{Bytes, PullProgress, StageError};

use crate::lanes::{self, Pull, Unit};

/// Text in the error of a full disk. Every layer of software passes it on.
const NO_SPACE: &str = "no space left on device";

/// Text in the error of a failed unpack. Bottlerocket's host-ctr retries the download of an image, but not the unpack:
/// <https://github.com/bottlerocket-os/bottlerocket-core-kit/blob/develop/sources/host-ctr/cmd/host-ctr/main.go>.
const UNPACK_FAILED: &str = "failed to unpack image";

/// Maximum number of attempts at a pull. An unpack can fail because containerd's garbage collection has just removed a
/// layer that the image shares with another.
const MAX_PULLS: u32 = 2;

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The builder matches the plan.
    Done,
    /// Make these changes and wait for the pulls. Without changes, only wait.
    Continue(Vec<Change>),
}

/// One change, as the document `pull-images` expects it.
///
/// Most refer to an image by its position in the plan, so that the changes of 200 images fit into the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Pulls an image by digest, because the tag may have moved since the plan, and tags it.
    Pull {
        unit: Unit,
        /// Pulls that end before it starts.
        after: Vec<Unit>,
        pinning: Pinning,
    },
    /// Sets the tag of an image.
    Tag(usize),
    /// Pins all names of an image.
    Pin(usize),
    /// Unpins all names of an image.
    Unpin(usize),
    /// Unpins a name that is not planned.
    UnpinName(ImageName),
    /// Removes the images that neither the plan nor the node needs, when every planned image and tag is there. The builder
    /// selects them.
    RemoveStale,
}

impl Change {
    /// Returns whether the change waits for all pulls.
    pub(crate) fn waits_for_pulls(&self) -> bool {
        matches!(self, Self::RemoveStale)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull {
                unit,
                after,
                pinning,
            } => {
                let verb = match pinning {
                    Pinning::Pinned => "pull-pinned",
                    Pinning::Unpinned => "pull",
                };
                write!(f, "{verb},{unit}")?;
                after.iter().try_for_each(|unit| write!(f, ",{unit}"))
            }
            Self::Tag(position) => write!(f, "tag,{position}"),
            Self::Pin(position) => write!(f, "pin,{position}"),
            Self::Unpin(position) => write!(f, "unpin,{position}"),
            Self::UnpinName(name) => write!(f, "unpin-name,{name}"),
            Self::RemoveStale => f.write_str("remove-stale"),
        }
    }
}

/// Returns as many of `changes` as fit into a command beside `images`, in the same order. The next status shows the others
/// again.
pub(crate) fn fitting(mut changes: Vec<Change>, images: &str) -> Vec<Change> {
    let mut bytes = images.len() + "300".len();
    let fits = changes
        .iter()
        .take_while(|change| {
            bytes += change.to_string().len() + " ".len();
            bytes <= MAX_PARAMETER_BYTES
        })
        .count();
    changes.truncate(fits);
    changes
}

/// A planned image and its names on the builder.
struct Planned<'a> {
    position: usize,
    image: &'a PlannedImage,
    /// Its names in the order of [`prepull_domain::ImageReference::names_on_node`], the name by digest first.
    names: Vec<(String, Option<&'a NameRecord>)>,
    pull: Option<&'a PullAttempt>,
}

impl<'a> Planned<'a> {
    fn all(target: &'a Target, status: &'a ImageStatus) -> Vec<Self> {
        let mut asked = 0..;
        target
            .images
            .iter()
            .enumerate()
            .map(|(position, image)| Self {
                position,
                image,
                names: image
                    .reference
                    .names_on_node(&image.digest)
                    .into_iter()
                    .zip(&mut asked)
                    .map(|(name, asked)| (name, status.names.get(&asked)))
                    .collect(),
                pull: status.pulls.get(&position),
            })
            .collect()
    }

    fn by_digest(&self) -> &str {
        &self.names[0].0
    }

    /// Returns the number of the next attempt to pull the image. `None` if a pull runs or waits, or no further attempt can
    /// help.
    fn next_attempt(&self) -> Option<u32> {
        match self.pull {
            None => Some(1),
            Some(pull) => (pull.state == PullState::Failed
                && pull.number < MAX_PULLS
                && says(pull, UNPACK_FAILED)
                && !says(pull, NO_SPACE))
            .then_some(pull.number + 1),
        }
    }

    /// Returns whether a pull of the image runs or waits.
    fn is_started(&self) -> bool {
        self.pull.is_some_and(is_started)
    }

    /// Returns whether the status contains the log of a failed pull of the image.
    fn has_log(&self) -> bool {
        self.pull.is_some_and(|pull| !pull.log.is_empty())
    }

    /// Returns whether the image is complete and unpacked.
    fn is_present(&self) -> bool {
        is_right(self.names[0].1)
    }
}

fn is_started(pull: &PullAttempt) -> bool {
    matches!(pull.state, PullState::Queued | PullState::Running)
}

/// Returns whether a pull runs or waits.
pub(crate) fn is_pulling(status: &ImageStatus) -> bool {
    status.pulls.values().any(is_started)
}

fn is_right(record: Option<&NameRecord>) -> bool {
    record.is_some_and(|found| found.usable == Usable::Yes)
}

/// Returns the number of images that are complete and unpacked.
pub(crate) fn progress(target: &Target, status: &ImageStatus) -> PullProgress {
    let planned = Planned::all(target, status);
    PullProgress {
        pulled: planned.iter().filter(|image| image.is_present()).count(),
        total: planned.len(),
    }
}

/// Returns the number of images that were complete and unpacked when the command of `status` started.
pub(crate) fn pulled_before(target: &Target, status: &ImageStatus) -> usize {
    let is_finished = |pull: &&PullAttempt| pull.state == PullState::Succeeded;
    let finished = status.pulls.values().filter(is_finished).count();
    let during = finished.saturating_sub(status.finished_before);
    progress(target, status).pulled.saturating_sub(during)
}

/// Returns the changes of the first command, which needs no status: the plan knows which images the base has. The builder
/// skips pulls that an earlier call has started.
pub(crate) fn first(target: &Target, vcpus: u16) -> Vec<Change> {
    let status = ImageStatus::unknown();
    let planned = Planned::all(target, &status);
    let Base::Snapshot { .. } = target.base else {
        // A target that failed on its base is built again on an empty volume.
        return pulls(target, vcpus, &planned.iter().collect::<Vec<_>>());
    };
    let missing: Vec<_> = planned
        .iter()
        .filter(|image| !image.image.on_base)
        .collect();
    let mut changes = pulls(target, vcpus, &missing);
    changes.push(Change::RemoveStale);
    changes
}

/// Decides the next step.
///
/// # Errors
/// `PullFailed`, `DiskFull` or `VerifyFailed` if no further step can help.
pub(crate) fn next(target: &Target, vcpus: u16, status: &ImageStatus) -> Result<Next, StageError> {
    let planned = Planned::all(target, status);
    let missing: Vec<_> = planned.iter().filter(|image| !image.is_present()).collect();
    for image in &missing {
        check_base(image, target, &missing)?;
        check_pull(image, status, &missing)?;
    }

    let mut changes = pulls(target, vcpus, &missing);
    for image in planned.iter().filter(|image| image.is_present()) {
        changes.extend(names_and_pins(image, target.pinning));
    }
    // Releases before 1.54 give images of ECR a second name with the same labels. CRI treats an image as pinned if one of
    // its names is.
    if target.pinning == Pinning::Unpinned {
        let aliases = status.pinned_aliases.iter();
        changes.extend(aliases.cloned().map(Change::UnpinName));
    }
    // Stale images go last. An image that goes earlier takes layers with it that missing images share.
    if status.stale > 0 {
        changes.push(Change::RemoveStale);
    }
    if !(changes.is_empty() && missing.is_empty()) {
        return Ok(Next::Continue(changes));
    }
    if status.disk.is_too_full() {
        return Err(disk_full(status.disk, Bytes(0)));
    }
    Ok(Next::Done)
}

/// Returns the pulls to start.
///
/// A pull unpacks one layer after the other on one vCPU. By default, there is one more lane than vCPUs, because a pull also
/// waits for the registry.
fn pulls(target: &Target, vcpus: u16, missing: &[&Planned<'_>]) -> Vec<Change> {
    let lanes = target
        .parallel_pulls
        .map_or(usize::from(vcpus) + 1, usize::from);
    // Two references to one image need one pull, because both tags are set after it. An image that is being pulled comes
    // first, then the one with a failed attempt.
    let mut pulled: BTreeMap<&str, &Planned<'_>> = BTreeMap::new();
    let rank = |image: &Planned<'_>| (image.is_started(), image.pull.map(|pull| pull.number));
    for image in missing {
        let known = pulled.entry(image.by_digest()).or_insert(image);
        if rank(image) > rank(known) {
            *known = image;
        }
    }
    let (mut started, mut waiting) = (Vec::new(), Vec::new());
    for image in pulled.values() {
        let base = image.image.after.and_then(|base| {
            let base = missing.iter().find(|image| image.position == base)?;
            let pulled = pulled.get(base.by_digest())?.position;
            (pulled != image.position).then_some(pulled)
        });
        let pull = |attempt| Pull {
            unit: Unit {
                position: image.position,
                attempt,
            },
            size: image.image.size,
            base,
        };
        match image.pull {
            Some(attempt) if is_started(attempt) => started.push(pull(attempt.number).unit),
            _ => waiting.extend(image.next_attempt().map(pull)),
        }
    }
    lanes::assign(lanes, &started, waiting)
        .into_iter()
        .map(|(unit, after)| Change::Pull {
            unit,
            after,
            pinning: target.pinning,
        })
        .collect()
}

/// Returns the changes that a pulled image still needs: its tag and its pin.
fn names_and_pins(image: &Planned<'_>, pinning: Pinning) -> Vec<Change> {
    let mut changes = Vec::new();
    // The tag is missing, or it still refers to the image of the base.
    let is_wrong = |(_, record): &(String, Option<&NameRecord>)| !is_right(*record);
    let is_untagged = image.names.iter().any(is_wrong);
    if is_untagged {
        changes.push(Change::Tag(image.position));
    }
    let is_pinned = |expected| {
        let mut records = image.names.iter().filter_map(|(_, record)| *record);
        records.any(|record| record.pinned == expected)
    };
    match pinning {
        Pinning::Pinned if is_untagged || is_pinned(false) => {
            changes.push(Change::Pin(image.position));
        }
        Pinning::Unpinned if is_pinned(true) => changes.push(Change::Unpin(image.position)),
        _ => {}
    }
    changes
}

/// Fails the stage if an image of the base is incomplete, although it was complete when the base was published. Other
/// damage to that volume cannot be detected here.
fn check_base(
    image: &Planned<'_>,
    target: &Target,
    missing: &[&Planned<'_>],
) -> Result<(), StageError> {
    let (Base::Snapshot { snapshot_id, .. }, Some(found)) = (&target.base, image.names[0].1) else {
        return Ok(());
    };
    let is_pulled = |other: &&Planned<'_>| other.pull.is_some();
    let mut same = missing
        .iter()
        .filter(|other| other.by_digest() == image.by_digest());
    if same.any(is_pulled) {
        return Ok(());
    }
    Err(StageError::VerifyFailed(format!(
        "`{}` is {} on the base snapshot {snapshot_id}",
        image.image.reference,
        lack(Some(found.usable))
    )))
}

/// Returns the defect of an incomplete image.
fn lack(usable: Option<Usable>) -> &'static str {
    match usable {
        None => "not listed",
        Some(Usable::Packed) => "not unpacked",
        Some(_) => "not complete",
    }
}

/// Fails the stage if the pull of a missing image has ended and the image is still missing.
fn check_pull(
    image: &Planned<'_>,
    status: &ImageStatus,
    missing: &[&Planned<'_>],
) -> Result<(), StageError> {
    let Some(pull) = image.pull else {
        return Ok(());
    };
    if image.next_attempt().is_some() {
        return Ok(());
    }
    match pull.state {
        PullState::Queued | PullState::Running => Ok(()),
        PullState::Succeeded => Err(StageError::VerifyFailed(format!(
            "the pull of `{}` succeeded, but the image is {}",
            image.image.reference,
            lack(image.names[0].1.map(|found| found.usable))
        ))),
        // The status contains the logs of a few failures. The others have their turn when these are pulled again.
        PullState::Failed if pull.log.is_empty() && missing.iter().any(|other| other.has_log()) => {
            Ok(())
        }
        PullState::Failed => {
            if says(pull, NO_SPACE) {
                let missing = missing.iter().map(|image| image.image.size).sum();
                return Err(disk_full(status.disk, missing));
            }
            Err(StageError::PullFailed {
                image: image.image.reference.clone(),
                problem: problem(&pull.log),
            })
        }
    }
}

/// Returns whether a log line of the pull contains `text`.
fn says(pull: &PullAttempt, text: &str) -> bool {
    pull.log.iter().any(|line| line.contains(text))
}

fn disk_full(disk: Disk, missing: Bytes) -> StageError {
    StageError::DiskFull {
        used: disk.used,
        size: disk.size,
        wanted: disk.wanted_size(missing),
    }
}

/// Returns the cause of a failed pull from the puller's last output, with a remedy if the cause is known.
fn problem(words: &[String]) -> String {
    let said = words
        .iter()
        .rev()
        .find_map(|line| message(line))
        .or_else(|| words.last().cloned())
        .unwrap_or_else(|| "the pull ended without output".to_owned());
    let has = |patterns: &[&str]| patterns.iter().any(|pattern| said.contains(pattern));
    let advice = if has(&[
        "401",
        "403",
        "Unauthorized",
        "Forbidden",
        "AccessDenied",
        "denied",
    ]) {
        ". Check the cache's `registry_credentials`, or for private ECR the repository's policy and the builder's \
         role"
    } else if has(&["not found", "404", "MANIFEST_UNKNOWN"]) {
        ". The image was deleted after the plan; push it again"
    } else if has(&[
        "i/o timeout",
        "no such host",
        "connection refused",
        "deadline exceeded",
    ]) {
        ". Check that the builder reaches the registry: the routes, security groups and endpoints of its subnet"
    } else {
        ""
    };
    format!("{}{advice}", said.trim_end_matches('.'))
}

/// Returns the message of a failure in `host-ctr`'s log. A line has the form `time="…" level=fatal msg="…"`.
fn message(line: &str) -> Option<String> {
    let fields = ["level=fatal", "level=error", "level=warning"];
    if !fields.iter().any(|level| line.contains(level)) {
        return None;
    }
    let (_, quoted) = line.split_once("msg=\"")?;
    let mut message = String::new();
    let mut characters = quoted.chars();
    loop {
        // The line may be cut, so the closing quotation mark may be missing.
        match characters.next() {
            None | Some('"') => return Some(message),
            Some('\\') => message.extend(characters.next()),
            Some(character) => message.push(character),
        }
    }
}

/// Returns the error of a build that has reached its deadline with images missing.
pub(crate) fn out_of_time(target: &Target, status: &ImageStatus) -> StageError {
    let planned = Planned::all(target, status);
    let missing: Vec<_> = planned.iter().filter(|image| !image.is_present()).collect();
    // A running pull explains more than one that is queued.
    let is_running = |image: &&&Planned<'_>| {
        let pull = image.pull;
        pull.is_some_and(|pull| pull.state != PullState::Queued)
    };
    let named = missing.iter().find(is_running).or(missing.first());
    match named {
        Some(image) => StageError::PullFailed {
            image: image.image.reference.clone(),
            problem: format!(
                "it was not pulled before the build's timeout, nor were {} others. Increase the cache's \
                 `timeout_minutes` or `volume.throughput_mibps`, or use a larger builder",
                missing.len() - 1
            ),
        },
        None => StageError::VerifyFailed("the build timed out before the check ended".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prepull_domain::GiB;
    use prepull_domain::build::payload::DiskUsage;
    use prepull_testing::target;

    /// Returns a status of the builder of [`target`]. Names 0 and 1 belong to nginx, 2 and 3 to api.
    fn status(lines: &str) -> ImageStatus {
        let stale = if lines.contains("STALE") {
            ""
        } else {
            "STALE 0\n"
        };
        format!("FINISHED 0\n{lines}\nREMOVED 0\n{stale}DISK 1000 300\nEND")
            .parse()
            .unwrap()
    }

    /// Returns the target of a refresh.
    fn on_base() -> Target {
        Target {
            base: Base::Snapshot {
                snapshot_id: "snap-0123456789abcdef0".parse().unwrap(),
                fresh: DiskUsage::default(),
            },
            ..target()
        }
    }

    const VCPUS: u16 = 8;

    /// Status line of a builder with all images, by digest and by tag.
    const COMPLETE: &str = "NAMES uuuu\n";

    /// Returns the next step in the form that the document expects.
    fn does(target: &Target, lines: &str) -> String {
        match next(target, VCPUS, &status(lines)).unwrap() {
            Next::Done => "done".to_owned(),
            Next::Continue(changes) if changes.is_empty() => "wait".to_owned(),
            Next::Continue(changes) => {
                let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
                changes.join(" ")
            }
        }
    }

    #[test]
    fn empty_builder_pulls_all_images_largest_first() {
        assert_eq!(does(&target(), ""), "pull,1-1 pull,0-1");
    }

    #[test]
    fn first_command_pulls_images_that_the_base_lacks() {
        let first = |target: &Target| {
            let changes = first(target, VCPUS);
            let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
            changes.join(" ")
        };
        assert_eq!(first(&target()), "pull,1-1 pull,0-1");
        let mut refresh = on_base();
        assert_eq!(first(&refresh), "pull,1-1 pull,0-1 remove-stale");
        refresh.images[1].on_base = true;
        assert_eq!(first(&refresh), "pull,0-1 remove-stale");
        refresh.images[0].on_base = true;
        assert_eq!(first(&refresh), "remove-stale");
        refresh.base = target().base;
        assert_eq!(first(&refresh), "pull,1-1 pull,0-1");
    }

    #[test]
    fn parallel_pulls_stay_within_the_limit() {
        let mut one = target();
        one.parallel_pulls = Some(1);
        assert_eq!(does(&one, ""), "pull,1-1 pull,0-1,1-1");
        assert_eq!(does(&one, "UNIT 1 1 activating start"), "pull,0-1,1-1");
        assert_eq!(
            does(&one, "UNIT 1 1 activating start\nUNIT 0 1 queued dead"),
            "wait"
        );
        let pulled = "UNIT 1 1 active exited\nNAMES --uu";
        assert_eq!(does(&one, pulled), "pull,0-1");
    }

    #[test]
    fn default_limit_is_one_more_pull_than_vcpus() {
        let mut unlimited = target();
        unlimited.parallel_pulls = None;
        for digit in ["1", "2", "3"] {
            let mut another = unlimited.images[0].clone();
            another.digest = format!("sha256:{}", digit.repeat(64)).parse().unwrap();
            unlimited.images.push(another);
        }
        let at_once = |vcpus: u16| match next(&unlimited, vcpus, &status("")) {
            Ok(Next::Continue(changes)) => changes
                .iter()
                .filter(|change| !change.to_string()[5..].contains(','))
                .count(),
            other => panic!("{other:?}"),
        };
        assert_eq!([1, 2, 8].map(at_once), [2, 3, 5]);
    }

    #[test]
    fn image_waits_for_the_one_with_its_shared_layers() {
        let mut shared = target();
        shared.images[1].after = Some(0);
        assert_eq!(does(&shared, ""), "pull,0-1 pull,1-1,0-1");
        assert_eq!(does(&shared, "UNIT 0 1 activating start"), "pull,1-1,0-1");
        let there = "UNIT 0 1 active exited\nNAMES uu--";
        assert_eq!(does(&shared, there), "pull,1-1");
    }

    #[test]
    fn references_to_one_image_need_one_pull() {
        let mut twice = target();
        let mut again = twice.images[1].clone();
        again.reference = again
            .reference
            .to_string()
            .replace(":v1", ":v2")
            .parse()
            .unwrap();
        twice.images.push(again);
        assert_eq!(does(&twice, ""), "pull,1-1 pull,0-1");
        for started in ["1", "2"] {
            let lines = format!("UNIT 0 1 activating start\nUNIT {started} 1 queued dead");
            assert_eq!(does(&twice, &lines), "wait");
        }
        // An image whose layers come with the second reference waits for the pull of the first.
        twice.images[0].after = Some(2);
        assert_eq!(does(&twice, ""), "pull,1-1 pull,0-1,1-1");
    }

    #[test]
    fn pulled_image_gets_its_missing_or_moved_tag() {
        for lines in ["NAMES umuu", "NAMES u-uu"] {
            assert_eq!(does(&target(), lines), "tag,0");
        }
        let mut pinned = target();
        pinned.pinning = Pinning::Pinned;
        assert_eq!(does(&pinned, "NAMES U-UU"), "tag,0 pin,0");
    }

    #[test]
    fn incomplete_image_is_pulled() {
        for lines in ["NAMES iuuu", "NAMES puuu"] {
            assert_eq!(does(&target(), lines), "pull,0-1");
        }
    }

    #[test]
    fn incomplete_base_image_fails_verification() {
        let refresh = on_base();
        let broken = "NAMES i---\n";
        let error = next(&refresh, VCPUS, &status(broken)).unwrap_err();
        assert_eq!(error.name(), "VerifyFailed");
        assert!(
            error.to_string().contains(
                "`docker.io/library/nginx:1.27` is not complete on the base snapshot snap-0123456789abcdef0"
            ),
            "{error}"
        );
        // containerd lists an image during its pull, before it is complete.
        let pulled = format!("{broken}UNIT 0 1 activating start\nUNIT 1 1 activating start");
        assert_eq!(does(&refresh, &pulled), "wait");
    }

    #[test]
    fn stale_images_are_removed_last() {
        let lines = format!("{COMPLETE}STALE 1\n");
        assert_eq!(does(&target(), &lines), "remove-stale");
        assert_eq!(
            does(&target(), "STALE 1\n"),
            "pull,1-1 pull,0-1 remove-stale"
        );
    }

    #[test]
    fn changes_of_200_images_fit_into_the_parameter() {
        let mut large = target();
        let image = large.images[1].clone();
        large.images = (0..200)
            .map(|n| {
                let name = format!("registry.example.com/{}/{n:03}:v1", "p".repeat(97));
                assert_eq!(name.len(), 125);
                PlannedImage {
                    reference: name.parse().unwrap(),
                    ..image.clone()
                }
            })
            .collect();
        for (position, image) in large.images.iter_mut().enumerate() {
            image.digest = format!("sha256:{position:064}").parse().unwrap();
            image.after = position.checked_sub(1);
        }
        large.pinning = Pinning::Pinned;
        let requests = large.images.iter();
        let requests: Vec<_> = requests
            .map(|image| image.reference.status_request(&image.digest))
            .collect();
        let requests = requests.join(" ");
        for names in ["--", "u-"] {
            let lines = format!("STALE 9\nNAMES {}", names.repeat(200));
            let Next::Continue(changes) = next(&large, VCPUS, &status(&lines)).unwrap() else {
                panic!("the images are not pulled or have no tags");
            };
            let sent = fitting(changes.clone(), &requests);
            assert_eq!(sent, changes);
        }
    }

    #[test]
    fn changes_beyond_the_parameter_wait() {
        let changes = vec![Change::Pin(0); 10_000];
        let sent = fitting(changes, &"i".repeat(50_000));
        let bytes = sent.len() * "pin,0 ".len();
        let limit = MAX_PARAMETER_BYTES - 50_000;
        assert!((limit - 10..limit).contains(&bytes), "{bytes}");
    }

    #[test]
    fn pins_follow_the_configuration() {
        let mut pinned = target();
        pinned.pinning = Pinning::Pinned;
        assert_eq!(does(&pinned, "").matches("pull-pinned,").count(), 2);
        assert_eq!(does(&pinned, COMPLETE), "pin,0 pin,1");
        let all = COMPLETE.replace("uuuu", "UUUU");
        assert_eq!(does(&pinned, &all), "done");
        assert_eq!(does(&target(), &all), "unpin,0 unpin,1");
    }

    #[test]
    fn failed_pull_reports_image_cause_and_remedy() {
        let said =
            r#"LOG 1 1 time="now" level=fatal msg="retries exhausted: \"v1\": 401 Unauthorized""#;
        let error = next(
            &target(),
            VCPUS,
            &status(&format!("UNIT 1 1 failed failed\n{said}")),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "image `123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1` could not be pulled: retries \
             exhausted: \"v1\": 401 Unauthorized. Check the cache's `registry_credentials`, or for private ECR the \
             repository's policy and the builder's role"
        );
    }

    #[test]
    fn failed_unpack_is_tried_once_more() {
        let said = |attempt| {
            format!(
                "UNIT 0 1 activating start\nUNIT 1 {attempt} failed failed\n\
                 LOG 1 {attempt} level=fatal msg=\"failed to unpack image: parent snapshot does not exist\""
            )
        };
        assert_eq!(does(&target(), &said(1)), "pull,1-2,0-1");
        let error = next(&target(), VCPUS, &status(&said(2))).unwrap_err();
        assert_eq!(error.name(), "PullFailed");
        let full = said(1).replace("parent snapshot does not exist", NO_SPACE);
        assert_eq!(
            next(&target(), VCPUS, &status(&full)).unwrap_err().name(),
            "DiskFull"
        );
    }

    #[test]
    fn failure_without_log_waits_for_those_with_one() {
        let failed = "UNIT 0 1 failed failed\nUNIT 1 1 failed failed\n";
        let said = format!("{failed}LOG 1 1 level=fatal msg=\"failed to unpack image: again\"");
        assert_eq!(does(&target(), &said), "pull,1-2");
        let error = next(&target(), VCPUS, &status(failed)).unwrap_err();
        assert!(error.to_string().contains("without output"), "{error}");
    }

    #[test]
    fn pinned_aliases_follow_the_configuration() {
        let alias = "ecr.aws/arn:aws:ecr:eu-west-1:123456789012:repository/team/api:v1";
        let lines = format!("{COMPLETE}PINNED {alias}\n");
        assert_eq!(does(&target(), &lines), format!("unpin-name,{alias}"));
        let mut pinned = target();
        pinned.pinning = Pinning::Pinned;
        assert_eq!(does(&pinned, &lines.replace("uuuu", "UUUU")), "done");
    }

    #[test]
    fn full_disk_fails_with_a_sufficient_size() {
        let lines =
            "UNIT 0 1 failed failed\nLOG 0 1 level=fatal msg=\"write: no space left on device\"";
        let error = next(&target(), VCPUS, &status(lines)).unwrap_err();
        assert!(
            matches!(error, StageError::DiskFull { wanted: GiB(1), .. }),
            "{error}"
        );
    }

    #[test]
    fn successful_pull_without_image_fails() {
        let error = next(&target(), VCPUS, &status("UNIT 0 1 active exited")).unwrap_err();
        assert_eq!(error.name(), "VerifyFailed");
        assert!(error.to_string().contains("not listed"), "{error}");
    }

    #[test]
    fn too_full_volume_fails() {
        let full = format!("FINISHED 0\n{COMPLETE}REMOVED 0\nSTALE 0\nDISK 1000 800\nEND");
        let full = full.parse().unwrap();
        let error = next(&target(), VCPUS, &full).unwrap_err();
        assert_eq!(error.name(), "DiskFull");
    }

    #[test]
    fn timeout_reports_the_image_being_pulled() {
        let lines = "UNIT 0 1 queued dead\nUNIT 1 1 activating start";
        let error = out_of_time(&target(), &status(lines));
        assert!(error.to_string().contains("team/api:v1"), "{error}");
    }
}
