//! The pointers of caches in Parameter Store: reads them, and makes decisions about them.
//!
//! The decisions are in the Region of the installation. Consumers read parameters that show the last decision, in this
//! Region and in the Regions of copies.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ssm::types::{ParameterTier, ParameterType};
use jiff::Timestamp;
use prepull_domain::build::payload::SnapshotState;
use prepull_domain::snapshot::decisions::{self, Appended, Decided, Entry, NotDecided, Store};
use prepull_domain::snapshot::pointer::Change;
use prepull_domain::{
    Architecture, CacheName, Decision, Manifest, Pointer, PublishedSnapshot, RegionName,
    SnapshotId, StageError, names,
};
use serde_json::{Value, json};

use crate::parameters::{self, DocumentError};
use crate::{AwsError, Clients, emit_events, snapshots, tag_filter};

/// The pointer of one cache and architecture.
#[derive(Debug, Clone)]
pub struct TargetPointer<'a> {
    /// Clients in the Region of the installation.
    pub clients: &'a Clients,
    /// Cache of the pointer.
    pub cache: &'a CacheName,
    /// Architecture of the pointer.
    pub architecture: Architecture,
    /// Regions that the cache copies to.
    pub copy_to_regions: &'a BTreeSet<RegionName>,
}

impl TargetPointer<'_> {
    /// Returns the pointer after the last decision.
    ///
    /// # Errors
    /// If Systems Manager does not answer.
    pub async fn current(&self) -> Result<Pointer, StageError> {
        decisions::current(self).await
    }

    /// Makes a decision, and completes all earlier ones. Then sets the tags that the console shows.
    ///
    /// # Errors
    /// If the pointer does not allow the decision, or AWS refuses a call that nodes depend on. Other errors are only
    /// logged, and the next sweep repeats their calls.
    pub async fn decide(
        &self,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<Decided, NotDecided<StageError>> {
        let decided = decisions::decide(self, decision, now).await?;
        if let Some(change) = &decided.change {
            tracing::info!(
                cache = %self.cache,
                architecture = %self.architecture,
                change = serde_json::to_string(change).unwrap_or_default(),
                "pointer changed"
            );
        }
        let marked = self.mark(&decided.pointer).await;
        notified(marked).map_err(NotDecided::Failed)?;
        Ok(decided)
    }

    /// Sets the tag `prepull:state` of the target's snapshots in all Regions.
    async fn mark(&self, pointer: &Pointer) -> Result<(), StageError> {
        self.mark_in_region(self.clients, pointer).await?;
        for region in self.regions(pointer) {
            let clients = self.clients.in_region(region);
            let marked = self
                .mark_in_region(&clients, &pointer.in_region(region))
                .await;
            self.unless_removed(region, marked)?;
        }
        Ok(())
    }

    /// Only logs the error of a Region that is no longer in the configuration. The functions may have no access there.
    fn unless_removed(
        &self,
        region: &RegionName,
        result: Result<(), StageError>,
    ) -> Result<(), StageError> {
        match result {
            Err(error) if !self.copy_to_regions.contains(region) => {
                tracing::warn!(%region, cause = %error, "pointer unchanged in a removed Region");
                Ok(())
            }
            result => result,
        }
    }

    /// Returns the Regions of copies: those of the configuration, and those with a copy of a snapshot in use.
    fn regions<'b>(&'b self, pointer: &'b Pointer) -> BTreeSet<&'b RegionName> {
        pointer.regions().chain(self.copy_to_regions).collect()
    }

    async fn mark_in_region(&self, clients: &Clients, pointer: &Pointer) -> Result<(), StageError> {
        let filters = vec![
            tag_filter(names::TAG_CACHE, self.cache.as_str()),
            tag_filter(names::TAG_ARCHITECTURE, self.architecture.as_str()),
        ];
        for snapshot in snapshots::find(clients, filters).await? {
            let Some(state) = snapshot.state() else {
                continue;
            };
            let wanted = state_of(&snapshot.id, state, pointer);
            if wanted != state {
                // Retention may have deleted it.
                snapshots::set_state(clients, &snapshot.id, wanted).await?;
            }
        }
        Ok(())
    }

    /// Shows the pointer to the consumers in one Region. The plain ID comes last, so a node that follows it finds everything
    /// else in place.
    async fn show_in_region(&self, clients: &Clients, pointer: &Pointer) -> Result<(), StageError> {
        let (cache, architecture) = (self.cache, self.architecture);
        let json = serde_json::to_string(pointer).expect("a pointer can be serialized");
        parameters::put(clients, &names::state_parameter(cache, architecture), &json).await?;
        if let Some(canary) = pointer.canary() {
            let parameter = names::candidate_parameter(cache, architecture);
            parameters::put(clients, &parameter, canary.snapshot_id.as_str()).await?;
        }
        if let Some(stable) = &pointer.stable {
            let parameter = names::pointer_parameter(cache, architecture);
            parameters::put(clients, &parameter, stable.snapshot_id.as_str()).await?;
        }
        Ok(())
    }

    /// Returns the event of a change as its detail type and its detail.
    fn events(&self, before: Option<&Pointer>, pointer: &Pointer) -> Vec<(&'static str, Value)> {
        let id = |snapshot: &PublishedSnapshot| snapshot.snapshot_id.clone();
        let stable_before = before.and_then(|before| before.stable.as_ref()).map(id);
        let detail = |snapshot_id: &SnapshotId| {
            let snapshot = pointer.held().find(|held| held.snapshot_id == *snapshot_id);
            let mut detail = json!({
                "cache": self.cache,
                "architecture": self.architecture,
                "sequence": pointer.sequence,
                "snapshot_id": snapshot_id,
                "previous_snapshot_id": stable_before.as_ref().or(pointer.previous.as_ref().map(|it| &it.snapshot_id)),
            });
            if let Some(snapshot) = snapshot {
                detail["copies"] = json!(snapshot.copies);
                detail["content_key"] = json!(snapshot.content_key);
                detail["execution"] = json!(snapshot.execution);
                detail["images"] = json!(snapshot.images);
                detail["volume_size_gib"] = json!(snapshot.volume_size);
            }
            detail
        };
        match &pointer.change {
            Some(Change::Published { snapshot_id }) => {
                vec![(names::EVENT_PUBLISHED, detail(snapshot_id))]
            }
            Some(Change::PublishedAndPromoted { snapshot_id }) => vec![
                (names::EVENT_PUBLISHED, detail(snapshot_id)),
                (names::EVENT_PROMOTED, detail(snapshot_id)),
            ],
            Some(Change::Promoted { snapshot_id }) => {
                vec![(names::EVENT_PROMOTED, detail(snapshot_id))]
            }
            Some(Change::RolledBack { from, to, reason }) => {
                let mut detail = detail(to);
                detail["previous_snapshot_id"] = json!(from);
                detail["reason"] = json!(reason);
                vec![(names::EVENT_ROLLED_BACK, detail)]
            }
            Some(
                Change::SoakStarted { .. }
                | Change::Pinned { .. }
                | Change::Unpinned
                | Change::Rejected { .. },
            )
            | None => Vec::new(),
        }
    }

    async fn emit(&self, before: Option<&Pointer>, entry: &Entry) -> Result<(), StageError> {
        let events = self.events(before, &entry.pointer);
        if !events.is_empty() {
            let events = events.iter().map(|(kind, detail)| (*kind, detail));
            emit_events(self.clients, events).await?;
        }
        let announced = Entry {
            announced: true,
            ..entry.clone()
        };
        let json = serde_json::to_string(&announced).expect("an entry can be serialized");
        parameters::put(self.clients, &self.parameter(entry), &json).await
    }

    fn parameter(&self, entry: &Entry) -> String {
        names::decision_parameter(self.cache, self.architecture, entry.pointer.sequence)
    }

    /// Returns the copies of the snapshot of a version without decisions.
    async fn copies(&self) -> Result<BTreeMap<RegionName, SnapshotId>, StageError> {
        let parameter = names::pointer_parameter(self.cache, self.architecture);
        let mut copies = BTreeMap::new();
        for region in self.copy_to_regions {
            let copy = parameters::get(&self.clients.in_region(region), &parameter).await?;
            if let Some(copy) = copy.and_then(|id| id.parse().ok()) {
                copies.insert(region.clone(), copy);
            }
        }
        Ok(copies)
    }
}

impl Store for TargetPointer<'_> {
    type Error = StageError;

    async fn entries(&self) -> Result<Vec<Entry>, StageError> {
        let path = names::decisions_path(self.cache, self.architecture);
        entries(parameters::below(self.clients, &path).await?)
    }

    async fn published_before(&self) -> Result<Option<PublishedSnapshot>, StageError> {
        let (cache, architecture) = (self.cache, self.architecture);
        let parameter = names::pointer_parameter(cache, architecture);
        let id = parameters::get(self.clients, &parameter).await?;
        let Some(id) = id.and_then(|id| id.parse().ok()) else {
            return Ok(None);
        };
        let parameter = names::manifest_parameter(cache, architecture, &id);
        let json = match parameters::document(self.clients, &parameter).await {
            Ok(json) => json,
            Err(DocumentError::Call(error)) => return Err(error),
            Err(DocumentError::Pages(error)) => {
                tracing::warn!(snapshot = %id, %error, "published snapshot without a readable manifest");
                None
            }
        };
        let manifest = json.and_then(|json| serde_json::from_str::<Manifest>(&json).ok());
        match manifest {
            Some(manifest) => Ok(Some(PublishedSnapshot::new(
                &manifest,
                self.copies().await?,
            ))),
            None => Ok(None),
        }
    }

    async fn append(&self, entry: &Entry) -> Result<Appended, StageError> {
        let json = serde_json::to_string(entry).expect("an entry can be serialized");
        let answer = self
            .clients
            .ssm
            .put_parameter()
            .name(self.parameter(entry))
            .value(json)
            .r#type(ParameterType::String)
            .tier(ParameterTier::IntelligentTiering)
            .overwrite(false)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Appended::New),
            Err(error) if error.aws_code() == Some("ParameterAlreadyExists") => Ok(Appended::Taken),
            Err(error) => Err(error.into_stage_error("ssm:PutParameter")),
        }
    }

    /// Shows the pointer in the Regions of copies, then at home.
    async fn show(&self, pointer: &Pointer) -> Result<(), StageError> {
        for region in self.regions(pointer) {
            let clients = self.clients.in_region(region);
            let shown = self
                .show_in_region(&clients, &pointer.in_region(region))
                .await;
            self.unless_removed(region, shown)?;
        }
        self.show_in_region(self.clients, pointer).await
    }

    async fn announce(&self, before: Option<&Pointer>, entry: Entry) -> Result<(), StageError> {
        notified(self.emit(before, &entry).await)
    }

    async fn forget(&self, sequence: u64) -> Result<(), StageError> {
        let parameter = names::decision_parameter(self.cache, self.architecture, sequence);
        parameters::delete(self.clients, &parameter).await.map(drop)
    }
}

/// Returns the entries of these parameters of decisions.
///
/// # Errors
/// If one cannot be parsed. Without it, an older decision would count as the last one.
pub fn entries(parameters: BTreeMap<String, String>) -> Result<Vec<Entry>, StageError> {
    let parse = |(name, json): (String, String)| {
        serde_json::from_str(&json).map_err(|error| StageError::AwsFailed {
            call: "ssm:GetParametersByPath",
            message: format!(
                "the decision in parameter {name} cannot be parsed: {error}. Use the version of prepull that wrote it"
            ),
        })
    };
    parameters.into_iter().map(parse).collect()
}

/// Logs the error of a notification. Nodes already use the snapshot, and a failure would say the opposite. Throttling is
/// returned, so that the caller retries.
fn notified(result: Result<(), StageError>) -> Result<(), StageError> {
    match result {
        Err(error) if !matches!(error, StageError::Throttled { .. }) => {
            tracing::error!(
                error = error.name(),
                cause = %error,
                "pointer changed, but its notification failed"
            );
            Ok(())
        }
        result => result,
    }
}

/// Returns the state that the tag `prepull:state` of a finished snapshot shows. `state` is its tag now.
#[must_use]
pub fn state_of(id: &SnapshotId, state: SnapshotState, pointer: &Pointer) -> SnapshotState {
    let is = |held: &Option<PublishedSnapshot>| {
        held.as_ref().is_some_and(|held| held.snapshot_id == *id)
    };
    if pointer.is_rejected(id) {
        SnapshotState::Rejected
    } else if is(&pointer.stable) || is(&pointer.candidate) {
        SnapshotState::Published
    } else if state == SnapshotState::Published {
        SnapshotState::Verified
    } else {
        state
    }
}
