//! Verifies a snapshot: boots a verifier for each release and checks the content there.

use std::time::Duration;

use futures::future::{Either, join_all, pending, select};
use jiff::Timestamp;
use prepull_aws::instances;
use prepull_aws::run_command::run_document;
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::{Ami, Builder, Target, VerificationRecord};
use prepull_domain::node::{
    Document, ImageName, Progress, TreesDigest, VerificationOutput, Verified,
};
use prepull_domain::{
    BottlerocketVersion, Bytes, InstanceId, SnapshotId, StageError, VerificationLevel, excerpt,
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
    /// - `VerifyFailed` with the defects, also if Bottlerocket cannot mount the volume,
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
        let results = results.into_iter().collect::<Result<Vec<_>, _>>();
        let results = results.map_err(|error| match error {
            StageError::BuilderLost { instance, problem } => {
                StageError::VerifierLost { instance, problem }
            }
            error => error,
        })?;
        let verified_at = Timestamp::now();
        let first = results.iter().map(|result| result.launched_at).min();
        let took = verified_at.duration_since(first.unwrap_or(verified_at));
        let sum = |part: fn(&Verified) -> u64| results.iter().map(|r| part(&r.verified)).sum();
        Ok(VerificationRecord {
            level: self.level,
            seconds: u32::try_from(took.as_secs()).unwrap_or_default(),
            bytes: Bytes(sum(|verified| verified.blob_bytes.0)),
            trees: results
                .first()
                .and_then(|result| result.verified.trees.as_ref())
                .map_or(0, |trees| trees.trees),
            releases: results.into_iter().map(|result| result.release).collect(),
            verified_at,
        })
    }

    /// Terminates the verifiers.
    ///
    /// # Errors
    /// If EC2 rejects a call.
    pub async fn terminate(&self, clients: &Clients) -> Result<(), StageError> {
        for ami in self.amis() {
            for verifier in alive(clients, &self.machine(ami)).await? {
                tracing::info!(id = %verifier.id, "terminating verifier");
                instances::terminate(clients, &verifier.id).await?;
            }
        }
        Ok(())
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
        let checked = output.check(&names, self.trees).map_err(|defects| {
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
                Ok(VerificationOutput::Running(Progress { done, total })) => {
                    malformed = 0;
                    let percent = done * 100 / total.max(1);
                    progress = format!("verifying the snapshot: {percent} % done");
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

/// Parts of the console's lines about a data volume that cannot be mounted.
///
/// Sources: `xfs_fs_fill_super` and `xfs_alert_fsblock` in Linux, fs/xfs; util-linux, sys-utils/mount.c, and systemd,
/// src/core/job.c, which report the failure of Bottlerocket's `local.mount`.
const MOUNT_FAILURES: [&str; 6] = [
    "Failed to mount",
    "mount: ",
    "Corruption detected",
    "log mount/recovery failed",
    "SB validate failed",
    "Metadata corruption",
];

/// Returns the last line of the console about a failed mount.
fn mount_failure(console: &str) -> Option<String> {
    let is_failure = |line: &&str| MOUNT_FAILURES.iter().any(|failure| line.contains(failure));
    let line = console.lines().rev().find(is_failure)?;
    Some(excerpt(line.trim(), 300))
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
    fn console_of_a_network_problem_has_no_mount_failure() {
        let console = "[    3.1] systemd[1]: Mounted Local Directory (/local).\n\
             [    4.1] host-ctr: failed to pull: i/o timeout\n";
        assert_eq!(mount_failure(console), None);
    }
}
