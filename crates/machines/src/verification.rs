//! Verifies a snapshot: boots a verifier for each release and checks the content there.

use std::time::Duration;

use futures::future::{Either, join_all, pending, select};
use jiff::Timestamp;
use prepull_aws::instances;
use prepull_aws::run_command::run_document;
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::{Ami, Builder, Target, VerificationRecord};
use prepull_domain::node::{Document, ImageName, TreesDigest, VerificationOutput, Verified};
use prepull_domain::{
    BottlerocketVersion, InstanceId, Launched, SnapshotId, StageError, VerificationLevel, excerpt,
};

use crate::readiness::await_ready;
use crate::{Documents, InstanceProfile, Machine, Role, alive, ensure, user_data};

/// Poll interval between two commands to a verifier. A command itself waits up to 20 s for the result.
const POLL: Duration = Duration::from_secs(1);

/// Interval between two looks at the console of a verifier that is not ready. A boot takes about a minute.
const CONSOLE_INTERVAL: Duration = Duration::from_secs(20);

/// Maximum number of consecutive outputs that do not parse. A busy host sometimes drops the connection of `apiclient`.
const MALFORMED_OUTPUTS: u32 = 3;

/// Maximum number of defects in a message.
const DEFECTS: usize = 5;

/// A verification of one snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Verification<'a> {
    /// Target of the snapshot, with its images and its network.
    pub target: &'a Target,
    /// The snapshot.
    pub snapshot: &'a SnapshotId,
    /// How thorough it is.
    pub level: VerificationLevel,
    /// Fingerprint of the unpacked images on the builder.
    pub trees: Option<&'a TreesDigest>,
    /// The time up to which the sweep keeps the verifiers. `None` if an execution owns them.
    pub expires_at: Option<Timestamp>,
    /// The instance profile of the verifiers.
    pub profile: InstanceProfile<'a>,
    /// The SSM documents.
    pub documents: Documents<'a>,
}

/// The result on one verifier.
struct OnVerifier {
    launched_at: Timestamp,
    release: BottlerocketVersion,
    verified: Verified,
}

impl Verification<'_> {
    /// Verifies the snapshot on all releases at the same time. It launches the missing verifiers, and leaves them running.
    ///
    /// # Errors
    /// - `VerifyFailed` with the defects, also if Bottlerocket cannot mount the volume. It comes before the other errors,
    /// - `NeverReady` if a verifier does not become ready for another reason,
    /// - `VerifierLost` if a verifier ends, or has no result at the build's timeout,
    /// - the errors of [`ensure`].
    pub async fn run(
        &self,
        clients: &Clients,
        deadline: Deadline,
    ) -> Result<VerificationRecord, StageError> {
        let amis = self.amis().iter();
        let results = join_all(amis.map(|ami| Box::pin(self.on(clients, ami, deadline)))).await;
        let results = all(results).map_err(|error| self.of_verifier(error))?;
        let verified_at = Timestamp::now();
        let first = results.iter().map(|result| result.launched_at).min();
        let took = verified_at.duration_since(first.unwrap_or(verified_at));
        // All verifiers check the same images and the same fingerprint.
        let bytes = results.iter().map(|result| result.verified.blob_bytes);
        Ok(VerificationRecord {
            level: self.level,
            seconds: u32::try_from(took.as_secs()).unwrap_or_default(),
            bytes: bytes.min().unwrap_or_default(),
            trees: results
                .first()
                .and_then(|result| result.verified.trees.as_ref())
                .map_or(0, |trees| trees.trees),
            releases: results.into_iter().map(|result| result.release).collect(),
            verified_at,
        })
    }

    /// Terminates the verifiers. A failure does not keep the others.
    ///
    /// # Errors
    /// The first one, if EC2 rejects a call.
    pub async fn terminate(&self, clients: &Clients) -> Result<(), StageError> {
        let mut result = Ok(());
        for ami in self.amis() {
            let found = alive(clients, &self.machine(ami)).await;
            for verifier in found.iter().flatten() {
                tracing::info!(id = %verifier.id, "terminating verifier");
                let terminated = instances::terminate(clients, &verifier.id).await;
                result = result.and(terminated.map(drop));
            }
            result = result.and(found.map(drop));
        }
        result
    }

    /// Returns the machine images that boot from the snapshot.
    fn amis(&self) -> &[Ami] {
        match self.target.verification.amis.as_slice() {
            [] => std::slice::from_ref(&self.target.ami),
            amis => amis,
        }
    }

    fn machine<'a>(&'a self, ami: &'a Ami) -> Machine<'a> {
        Machine {
            target: self.target,
            role: Role::Verifier {
                snapshot: self.snapshot,
                initialization_rate: self.level.initialization_rate(),
                expires_at: self.expires_at,
            },
            ami,
            profile: self.profile,
        }
    }

    /// Verifies the snapshot on one release.
    async fn on(
        &self,
        clients: &Clients,
        ami: &Ami,
        deadline: Deadline,
    ) -> Result<OnVerifier, StageError> {
        let machine = self.machine(ami);
        // It pulls nothing, so it needs no credentials.
        let user_data = async || user_data::encode(self.target, Vec::new());
        let booted = async {
            let verifier = ensure(clients, &machine, user_data, deadline).await?;
            let give_up_at = self.target.give_up_at;
            let ready = await_ready(clients, self.documents, &verifier, give_up_at, deadline);
            let watch = self.mount_failure(clients, ami, &verifier.instance_id, deadline);
            let ready = match select(Box::pin(ready), Box::pin(watch)).await {
                Either::Left((ready, _)) => ready.map(drop),
                Either::Right((failure, _)) => Err(failure),
            };
            ready.map(|()| verifier)
        };
        let verifier = match booted.await {
            Ok(verifier) => verifier,
            Err(error) => return Err(self.boot_failure(clients, ami, error).await),
        };
        let output = self.output(clients, &verifier, deadline).await?;
        let images = self.target.images.iter();
        // In the order in which the document answers for each image.
        let names: Vec<ImageName> = images
            .flat_map(|image| image.reference.names_on_node(&image.digest))
            .map(|name| {
                name.parse()
                    .expect("the grammar of references allows only the characters of image names")
            })
            .collect();
        let packed = self.target.packed;
        let checked = output
            .check(&names, packed, self.trees)
            .map_err(|defects| {
                let more = defects.len().saturating_sub(DEFECTS);
                let mut texts: Vec<_> = defects.iter().map(ToString::to_string).collect();
                texts.truncate(DEFECTS);
                if more > 0 {
                    texts.push(format!("and {more} more"));
                }
                self.failed(&verifier.instance_id, &ami.version, &texts.join("; "))
            })?;
        Ok(OnVerifier {
            launched_at: verifier.launched_at,
            release: ami.version.clone(),
            verified: checked,
        })
    }

    /// Runs the document `verify` until it has a result.
    async fn output(
        &self,
        clients: &Clients,
        verifier: &Builder,
        deadline: Deadline,
    ) -> Result<prepull_domain::node::Verification, StageError> {
        let id = &verifier.instance_id;
        let images = self.target.images.iter();
        let images: Vec<_> = images
            .map(|image| image.reference.status_request(&image.digest))
            .collect();
        let trees = self.trees.map(TreesDigest::to_string);
        let parameters = vec![
            ("Images", images.join(" ")),
            ("Level", self.level.to_string()),
            ("Trees", trees.unwrap_or_else(|| "none".to_owned())),
        ];
        let (document, parameters) = self.documents.command(Document::Verify, parameters);
        let mut malformed = 0;
        let mut progress = "verifying the snapshot".to_owned();
        loop {
            let output = run_document(clients, id, &document, &parameters, deadline).await?;
            match output.stdout.parse() {
                Ok(VerificationOutput::Finished(result)) => return Ok(result),
                Ok(VerificationOutput::Running(running)) => {
                    malformed = 0;
                    progress = format!("verifying the snapshot: {} % done", running.percent());
                }
                Err(error) => {
                    malformed += 1;
                    let last = output.last_words();
                    tracing::warn!(%error, last, "incomplete result from the verifier");
                    if malformed >= MALFORMED_OUTPUTS {
                        return Err(StageError::VerifierLost {
                            instance: id.clone(),
                            problem: format!("it returned no result: {error}; last output: {last}"),
                        });
                    }
                }
            }
            if Timestamp::now() > self.target.give_up_at {
                return Err(StageError::VerifierLost {
                    instance: id.clone(),
                    problem: "it has no result at the build's timeout. Increase the cache's `timeout_minutes`".to_owned(),
                });
            }
            deadline.pause(POLL, &progress).await?;
        }
    }

    /// Returns the error of a verifier whose console shows a failed mount. Otherwise, it never returns. Such a verifier keeps
    /// running without an agent, so only its console tells.
    async fn mount_failure(
        &self,
        clients: &Clients,
        ami: &Ami,
        verifier: &InstanceId,
        deadline: Deadline,
    ) -> StageError {
        while deadline
            .pause(CONSOLE_INTERVAL, "watching the console")
            .await
            .is_ok()
        {
            // The type may have no console while it runs.
            let console = instances::console(clients, verifier).await;
            if let Some(reason) = console.ok().and_then(|console| mount_failure(&console)) {
                let problem = format!("the data volume does not mount: {reason}");
                return self.failed(verifier, &ami.version, &problem);
            }
        }
        pending().await
    }

    /// Returns the error for a verifier that is not ready, or that ended before. A volume that does not mount is a defect of
    /// the snapshot, and the console shows it. The network, for example, is none.
    async fn boot_failure(&self, clients: &Clients, ami: &Ami, error: StageError) -> StageError {
        let (StageError::NeverReady { instance, .. } | StageError::BuilderLost { instance, .. }) =
            &error
        else {
            return error;
        };
        match instances::console(clients, instance).await {
            Ok(console) => match mount_failure(&console) {
                Some(reason) => {
                    let problem = format!("the data volume does not mount: {reason}");
                    self.failed(instance, &ami.version, &problem)
                }
                None => error,
            },
            Err(unread) => {
                tracing::warn!(error = %unread, "console of the verifier not read");
                error
            }
        }
    }

    /// Converts an error about a builder. The launch and the boot are the same for both.
    fn of_verifier(&self, error: StageError) -> StageError {
        match error {
            StageError::BuilderLost { instance, problem } => {
                StageError::VerifierLost { instance, problem }
            }
            StageError::KeyUnusable {
                instance, problem, ..
            } => StageError::KeyUnusable {
                launched: Launched::Verifier(self.snapshot.clone()),
                instance,
                problem,
            },
            error => error,
        }
    }

    fn failed(
        &self,
        verifier: &InstanceId,
        release: &BottlerocketVersion,
        problem: &str,
    ) -> StageError {
        StageError::VerifyFailed(format!(
            "snapshot {} on verifier {verifier}, Bottlerocket {release}: {problem}",
            self.snapshot
        ))
    }
}

/// Returns the results of all verifiers. A defect comes before the other errors, because it is a result.
fn all<T>(results: Vec<Result<T, StageError>>) -> Result<Vec<T>, StageError> {
    let is_defect =
        |result: &Result<T, StageError>| matches!(result, Err(StageError::VerifyFailed(_)));
    let (defects, others): (Vec<_>, Vec<_>) = results.into_iter().partition(is_defect);
    defects.into_iter().chain(others).collect()
}

/// Messages of the kernel about an XFS file system that it cannot mount or read. On a verifier, only the data volume has XFS.
///
/// Source: `xfs_log_mount`, `xfs_readsb`, `xfs_validate_sb_common` and `xfs_corruption_error` in Linux, fs/xfs.
const XFS_FAILURES: [&str; 5] = [
    "log mount/recovery failed",
    "SB validate failed",
    "Invalid superblock magic number",
    "Corruption detected",
    "Metadata corruption detected",
];

/// Parts of the console's lines about a failed mount of `/local`, the data volume.
///
/// Source: util-linux, sys-utils/mount.c; systemd, src/core/job.c, with the description of Bottlerocket's `local.mount`. By its
/// setting `StatusUnitFormat`, systemd writes the name of the unit, the description, or both.
const LOCAL_FAILURES: [&str; 3] = [
    "Failed to mount Local Directory (/local)",
    "Failed to mount local.mount",
    "mount: /local: ",
];

/// Part of the console's line about a mount that took too long. It can be slow without a defect.
///
/// Source: systemd, src/core/mount.c.
const LOCAL_TIMEOUT: &str = "local.mount: Mounting timed out";

/// Returns the last line of the console about a failed mount of the data volume.
fn mount_failure(console: &str) -> Option<String> {
    if console.contains(LOCAL_TIMEOUT) {
        return None;
    }
    let line = console.lines().rev().find(|line| is_mount_failure(line))?;
    Some(excerpt(line.trim(), 300))
}

fn is_mount_failure(line: &str) -> bool {
    let xfs = line
        .split_once("XFS (")
        .and_then(|(_, rest)| rest.split_once("): "));
    let is_xfs = xfs.is_some_and(|(_, message)| {
        XFS_FAILURES
            .iter()
            .any(|failure| message.starts_with(failure))
    });
    let is_local = LOCAL_FAILURES.iter().any(|failure| {
        // `umount: /local: ` is another message.
        line.split_once(failure)
            .is_some_and(|(before, _)| !before.ends_with(char::is_alphanumeric))
    });
    is_xfs || is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_of_a_failed_mount_yields_its_reason() {
        let console = "[    3.1] systemd[1]: Started.\n\
             [    4.0] XFS (nvme1n1p1): log mount/recovery failed: error -117\r\n\
             [    4.1] systemd[1]: Failed to mount Local Directory (/local).\r\n[    5.0] kernel: eth0\n";
        assert_eq!(
            mount_failure(console).as_deref(),
            Some("[    4.1] systemd[1]: Failed to mount Local Directory (/local).")
        );
    }

    #[test]
    fn only_lines_about_the_data_volume_are_mount_failures() {
        for line in [
            "[    4.1] systemd[1]: Failed to mount Local Directory (/local).",
            "[FAILED] Failed to mount local.mount - Local Directory (/local).",
            "[    4.0] mount[1234]: mount: /local: wrong fs type, bad option, bad superblock on /dev/nvme1n1p1.",
            "mount: /local: can't read superblock on /dev/nvme1n1p1.",
            "[    3.9] XFS (nvme1n1p1): log mount/recovery failed: error -117",
            "[    3.9] XFS (nvme1n1p1): SB validate failed with error -117.",
            "[    3.9] XFS (nvme1n1p1): Metadata corruption detected at xfs_agi_verify+0x1b/0x110 [xfs], xfs_agi block 0x2",
            "[   61.2] XFS (nvme1n1p1): Corruption detected. Unmount and run xfs_repair",
        ] {
            assert_eq!(mount_failure(line).as_deref(), Some(line));
        }
        for line in [
            "[    3.1] systemd[1]: Mounted Local Directory (/local).",
            "[    3.1] XFS (nvme1n1p1): Mounting V5 Filesystem 0f1e2d3c",
            "[    3.1] XFS (nvme1n1p1): Starting recovery (logdev: internal)",
            "[    3.1] XFS (nvme1n1p1): Ending clean mount",
            "[   70.2] umount: /local: target is busy.",
            "[   70.2] umount: /local/mnt: not mounted.",
            "[    2.2] systemd[1]: Failed to mount Kernel Debug File System (/sys/kernel/debug).",
            "[    2.2] mount[99]: mount: /sys/fs/bpf: bpf already mounted.",
            "[   65.0] host-ctr: failed to mount: mount: /run/host-containerd: no such file",
            "[   65.0] host-ctr[812]: Corruption detected in blob cache",
            "[    4.1] EXT4-fs (nvme0n1p3): Metadata corruption detected",
            "[    4.1] host-ctr: failed to pull: i/o timeout",
        ] {
            assert_eq!(mount_failure(line), None, "{line}");
        }
    }

    #[test]
    fn slow_mount_is_no_mount_failure() {
        let console = "[   94.0] systemd[1]: local.mount: Mounting timed out. Terminating.\n\
             [   94.1] systemd[1]: Failed to mount Local Directory (/local).\n";
        assert_eq!(mount_failure(console), None);
    }

    #[test]
    fn defect_of_one_verifier_comes_before_other_errors() {
        let never_ready = || StageError::NeverReady {
            instance: "i-0123456789abcdef0".parse().unwrap(),
            waited: Duration::from_mins(10),
            problem: String::new(),
        };
        let defect = || StageError::VerifyFailed("layer is missing".to_owned());
        let running = || StageError::StillRunning(String::new());
        assert_eq!(
            all(vec![Err(never_ready()), Ok(1), Err(defect())]),
            Err(defect())
        );
        assert_eq!(
            all::<u8>(vec![Err(running()), Err(defect())]),
            Err(defect())
        );
        assert_eq!(all(vec![Ok(1), Err(never_ready())]), Err(never_ready()));
        assert_eq!(all(vec![Ok(1), Ok(2)]), Ok(vec![1, 2]));
    }
}
