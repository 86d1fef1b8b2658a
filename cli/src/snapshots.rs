//! `prepull snapshots`: the content of each snapshot of a cache, and the one that nodes use.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use prepull_aws::{Clients, parameters, snapshots, tag_filter};
use prepull_domain::build::payload::Base;
use prepull_domain::snapshot::manifest::Step;
use prepull_domain::{
    Architecture, CacheName, GiB, Manifest, Pointer, PublishedSnapshot, Reason, SnapshotId, names,
};
use serde::Serialize;

use crate::render::{clock, table};
use crate::{Error, store};

/// The snapshots of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotsReport {
    /// The cache.
    pub cache: CacheName,
    /// Its snapshots, by architecture, newest first.
    pub snapshots: Vec<SnapshotReport>,
    /// The details in the text output.
    #[serde(skip)]
    details: Details,
}

/// The details of a snapshot in the text output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Details {
    /// List every image with its digest and size.
    #[arg(long)]
    pub images: bool,
    /// Show the time of each build step.
    #[arg(long)]
    pub timeline: bool,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotReport {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Its architecture.
    pub architecture: String,
    /// Whether nodes use it.
    pub published: bool,
    /// Its state: the tag `prepull:state`.
    pub state: Option<String>,
    /// Its role in the pointer: `stable`, `previous`, `candidate` or `queued`.
    pub role: Option<&'static str>,
    /// The reason of its rejection.
    pub rejected: Option<Reason>,
    /// Its status in EBS: `pending`, `completed`, `error`.
    pub ebs_state: String,
    /// EBS's progress while it is pending.
    pub progress: Option<String>,
    /// Its start time in EBS. `None` if EC2 returns none.
    pub started_at: Option<Timestamp>,
    /// The size of its volume in GiB. `None` if EC2 returns none.
    pub volume_size: Option<GiB>,
    /// Its content, from its manifest. `None` if it was never published.
    pub manifest: Option<Manifest>,
    /// The time that each step of its build took.
    pub timeline: Option<Vec<Step>>,
}

/// Returns the snapshots of `cache`.
///
/// # Errors
/// If the cache does not exist, or AWS refuses a call.
pub async fn report(
    clients: &Clients,
    cache: &CacheName,
    details: Details,
) -> Result<SnapshotsReport, Error> {
    let of_cache = vec![tag_filter(names::TAG_CACHE, cache.as_str())];
    let found = snapshots::find(clients, of_cache).await?;
    if found.is_empty() {
        // Distinguishes an unknown cache from one without snapshots.
        parameters::cache(clients, cache.as_str()).await?;
    }
    let mut published = Vec::new();
    let mut pointers = Vec::new();
    let mut manifests: BTreeMap<SnapshotId, Manifest> = BTreeMap::new();
    for architecture in Architecture::ALL {
        published.extend(store::published(clients, cache, architecture).await?);
        pointers.extend(store::pointer(clients, cache, architecture).await?);
        let of_architecture = store::manifests(clients, cache, architecture).await?;
        manifests.extend(
            of_architecture
                .into_iter()
                .map(|m| (m.snapshot_id.clone(), m)),
        );
    }
    let mut snapshots: Vec<_> = found
        .iter()
        .map(|snapshot| {
            let tag = |key| snapshot.tag(key).map(str::to_owned);
            let manifest = manifests.remove(&snapshot.id);
            SnapshotReport {
                snapshot_id: snapshot.id.clone(),
                architecture: tag(names::TAG_ARCHITECTURE).unwrap_or_default(),
                published: published.contains(&snapshot.id),
                state: tag(names::TAG_STATE),
                role: pointers
                    .iter()
                    .find_map(|pointer| role(pointer, &snapshot.id)),
                rejected: pointers
                    .iter()
                    .flat_map(|pointer| &pointer.rejected)
                    .find(|rejection| rejection.snapshot_id == snapshot.id)
                    .map(|rejection| rejection.reason.clone()),
                ebs_state: snapshot
                    .ebs_state
                    .as_ref()
                    .map_or("unknown", |state| state.as_str())
                    .to_owned(),
                progress: snapshot.progress.clone(),
                started_at: snapshot.started_at,
                volume_size: snapshot.volume_size,
                timeline: manifest.as_ref().map(Manifest::timeline),
                manifest,
            }
        })
        .collect();
    snapshots.sort_by(|a, b| (&b.architecture, b.started_at).cmp(&(&a.architecture, a.started_at)));
    Ok(SnapshotsReport {
        cache: cache.clone(),
        snapshots,
        details,
    })
}

/// Returns the role of a snapshot in a pointer.
fn role(pointer: &Pointer, id: &SnapshotId) -> Option<&'static str> {
    let roles = [
        ("stable", &pointer.stable),
        ("candidate", &pointer.candidate),
        ("queued", &pointer.queued),
        ("previous", &pointer.previous),
    ];
    let is = |held: &PublishedSnapshot| held.snapshot_id == *id;
    let mut roles = roles.into_iter();
    roles
        .find(|(_, held)| held.as_ref().is_some_and(is))
        .map(|(role, _)| role)
}

impl SnapshotReport {
    fn row(&self) -> Vec<String> {
        let state = match (self.ebs_state.as_str(), self.state.as_deref()) {
            ("completed", _) if self.role.is_some() => self.role.unwrap_or_default(),
            (_, _) if self.published => "published",
            ("completed", Some("published")) => "previously published",
            ("completed", Some(state)) => state,
            ("completed", None) => "unfinished",
            (ebs_state, _) => ebs_state,
        };
        let state = match &self.progress {
            Some(progress) if self.ebs_state == "pending" => format!("{state} {progress}"),
            _ if self.rejected.is_some() => {
                format!(
                    "{state}: {}",
                    self.rejected.as_ref().map_or("", Reason::as_str)
                )
            }
            _ => state.to_owned(),
        };
        let (used, images, base) = match &self.manifest {
            Some(manifest) => (
                manifest.used.to_string(),
                manifest.images.len().to_string(),
                match &manifest.base {
                    Base::Empty { reason } => format!("empty volume: {reason}"),
                    Base::Snapshot { snapshot_id, .. } => snapshot_id.to_string(),
                },
            ),
            None => (unknown(), unknown(), unknown()),
        };
        vec![
            if self.published { "*" } else { "" }.to_owned(),
            self.snapshot_id.to_string(),
            self.architecture.clone(),
            state,
            self.started_at
                .map_or_else(unknown, |time| time.strftime("%Y-%m-%d %H:%MZ").to_string()),
            self.volume_size
                .map_or_else(unknown, |size| size.to_string()),
            used,
            images,
            base,
        ]
    }
}

/// Returns the cell of a value that does not exist.
fn unknown() -> String {
    "-".to_owned()
}

/// Returns a line of the timeline: start, duration, and the resource that the build waited for.
fn step(step: &Step) -> Vec<String> {
    vec![
        step.started_at.strftime("%H:%M:%SZ").to_string(),
        clock(step.ended_at.duration_since(step.started_at)),
        step.stage.to_owned(),
        step.waited_for.to_owned(),
    ]
}

impl fmt::Display for SnapshotsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.snapshots.is_empty() {
            return writeln!(
                f,
                "Cache `{0}` has no snapshots. Build one with `prepull build {0}`.",
                self.cache
            );
        }
        let head = [
            "", "SNAPSHOT", "ARCH", "STATE", "STARTED", "VOLUME", "USED", "IMAGES", "BASE",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.snapshots.iter().map(SnapshotReport::row));
        let table_of_snapshots = table("", &rows);
        let mut lines = table_of_snapshots.lines();
        writeln!(f, "{}", lines.next().unwrap_or_default())?;
        for (line, snapshot) in lines.zip(&self.snapshots) {
            writeln!(f, "{line}")?;
            if self.details.timeline {
                let steps: Vec<_> = snapshot.timeline.iter().flatten().map(step).collect();
                f.write_str(&table("      ", &steps))?;
            }
            if !self.details.images {
                continue;
            }
            let images: Vec<_> = snapshot
                .manifest
                .iter()
                .flat_map(|manifest| &manifest.images)
                .map(|image| {
                    vec![
                        image.reference.to_string(),
                        image.digest.to_string(),
                        image.size.to_string(),
                    ]
                })
                .collect();
            f.write_str(&table("      ", &images))?;
        }
        Ok(())
    }
}
