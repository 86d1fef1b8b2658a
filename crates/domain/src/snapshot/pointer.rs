//! The pointer of a target: which snapshot nodes use, and which one comes next.
//!
//! A [`Decision`] moves the pointer. [`Pointer::after`] is a pure function, so two callers that start from the same pointer
//! and make the same decision get the same result. A decision that has already been made changes nothing.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::build::execution::ExecutionName;
use crate::build::queue;
use crate::cache::config::Promotion;
use crate::cache::variant::{BottlerocketVersion, Variant};
use crate::ids::{RegionName, SnapshotId};
use crate::size::{Bytes, GiB};
use crate::snapshot::content_key::ContentKey;
use crate::snapshot::manifest::Manifest;

/// Number of rejections that the pointer remembers. The tags of the snapshots remember all.
const REMEMBERED_REJECTIONS: usize = 4;

/// Maximum characters of a reason. The pointer with its reasons fits into one parameter.
const MAX_REASON: usize = 150;

/// The pointer of one cache and architecture, stored as JSON in one SSM parameter. It has everything that a consumer needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// Number of the decision that led to this pointer. Each decision increases it by one.
    pub sequence: u64,
    /// Snapshot that nodes use. `None` before the first promotion.
    pub stable: Option<PublishedSnapshot>,
    /// Time of the decision that made it stable. `None` for a snapshot from before all decisions. A consumer can wait for
    /// some time before it follows.
    #[serde(default)]
    pub stable_since: Option<Timestamp>,
    /// Snapshot that nodes used before. A roll-back returns to it.
    pub previous: Option<PublishedSnapshot>,
    /// Published snapshot that waits for its promotion.
    pub candidate: Option<PublishedSnapshot>,
    /// End of the candidate's soak.
    pub promote_at: Option<Timestamp>,
    /// Newest published snapshot, if the candidate still soaks. It becomes the next candidate. A cache with many pushes
    /// would otherwise restart the soak each time.
    pub queued: Option<PublishedSnapshot>,
    /// Pin, which keeps the stable snapshot.
    pub pin: Option<Pin>,
    /// Last rejections, oldest first.
    pub rejected: Vec<Rejection>,
    /// Latest plan of a published snapshot. Publication never goes back to an older plan.
    pub newest_plan: Option<Timestamp>,
    /// Last change.
    pub change: Option<Change>,
    /// Time of the last decision.
    pub updated_at: Option<Timestamp>,
}

/// A published snapshot, with the facts that a consumer needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedSnapshot {
    /// ID in the Region of the pointer.
    pub snapshot_id: SnapshotId,
    /// IDs of its copies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copies: BTreeMap<RegionName, SnapshotId>,
    /// Content key.
    pub content_key: ContentKey,
    /// Variant of the builder.
    pub variant: Variant,
    /// Bottlerocket release of the builder. Nodes run this release or a later one.
    pub bottlerocket_version: BottlerocketVersion,
    /// Minimum size of a volume from the snapshot.
    pub volume_size: GiB,
    /// Bytes used on the volume.
    pub used: Bytes,
    /// Number of images.
    pub images: usize,
    /// Execution that built it.
    pub execution: ExecutionName,
    /// Time of the plan.
    pub planned_at: Timestamp,
    /// Time at which EBS completed the snapshot.
    pub completed_at: Timestamp,
}

impl PublishedSnapshot {
    /// Returns the snapshot of `manifest`, which has all its images, with its copies.
    #[must_use]
    pub fn new(manifest: &Manifest, copies: BTreeMap<RegionName, SnapshotId>) -> Self {
        Self {
            snapshot_id: manifest.snapshot_id.clone(),
            copies,
            content_key: manifest.content_key.clone(),
            variant: manifest.variant.clone(),
            bottlerocket_version: manifest.node.bottlerocket_version.clone(),
            volume_size: manifest.volume_size,
            used: manifest.used,
            images: manifest.images.len(),
            execution: manifest.execution.clone(),
            planned_at: manifest.planned_at,
            completed_at: manifest.completed_at,
        }
    }

    /// Returns the snapshot as a consumer in `region` sees it, or `None` without a copy there.
    fn in_region(&self, region: &RegionName) -> Option<Self> {
        let copy = self.copies.get(region)?;
        Some(Self {
            snapshot_id: copy.clone(),
            copies: BTreeMap::new(),
            ..self.clone()
        })
    }
}

/// A pin. It keeps the stable snapshot, while builds go on and publish candidates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Reason, for people.
    pub reason: Reason,
    /// Time of the pin.
    pub since: Timestamp,
    /// Snapshot that a roll-back left, if the pin comes from a roll-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<SnapshotId>,
}

/// A rejected snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// IDs of its copies, if the pointer referred to the snapshot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copies: BTreeMap<RegionName, SnapshotId>,
    /// Reason, for people.
    pub reason: Reason,
    /// Time of the decision.
    pub at: Timestamp,
}

/// The reason of a decision: one line of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

/// A text that cannot be a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reason: it has {problem}. Write one line of 1 to {MAX_REASON} characters")]
pub struct InvalidReason {
    problem: &'static str,
}

impl std::str::FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        let problem = if text.is_empty() {
            "no text"
        } else if text.chars().count() > MAX_REASON {
            "too many characters"
        } else if text.chars().any(char::is_control) {
            "a line break or another control character"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(InvalidReason { problem })
    }
}

impl Reason {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = InvalidReason;

    fn try_from(text: String) -> Result<Self, InvalidReason> {
        text.parse()
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A decision about the pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Publish a verified snapshot as candidate. It becomes stable at once if promotion is immediate and nothing is pinned.
    Publish {
        /// Snapshot to publish.
        snapshot: Box<PublishedSnapshot>,
        /// Promotion of the cache.
        promotion: Promotion,
    },
    /// Promote the candidate.
    Promote {
        /// Snapshot to promote, or `None` for the newest published one.
        snapshot: Option<SnapshotId>,
        /// Promotion of the cache. It applies to the next candidate.
        promotion: Promotion,
    },
    /// Do what the cache's promotion asks for at this time: promote a candidate whose soak has ended, or start the soak of a
    /// candidate from before a change of the configuration.
    PromoteDue {
        /// Promotion of the cache. It applies to the next candidate, too.
        promotion: Promotion,
    },
    /// Return to the previous snapshot, reject the stable one, and pin.
    RollBack {
        /// Reason, for people.
        reason: Reason,
    },
    /// Keep the stable snapshot.
    Pin {
        /// Reason, for people.
        reason: Reason,
    },
    /// Remove the pin. A candidate of a cache with immediate promotion becomes stable.
    Unpin {
        /// Promotion of the cache.
        promotion: Promotion,
    },
    /// Make a snapshot unusable: never a base, never promoted.
    Reject {
        /// Snapshot to reject.
        snapshot: SnapshotId,
        /// Reason, for people.
        reason: Reason,
        /// Promotion of the cache. It applies to the next candidate.
        promotion: Promotion,
    },
}

/// A change of the pointer, for people and for events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// A snapshot was published as candidate.
    Published {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// A snapshot was published and promoted at once.
    PublishedAndPromoted {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// The soak of a candidate started after its publication, because the configuration changed.
    SoakStarted {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// A snapshot was promoted.
    Promoted {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// The stable snapshot was replaced by the previous one.
    RolledBack {
        /// The bad snapshot.
        from: SnapshotId,
        /// The good snapshot.
        to: SnapshotId,
        /// Reason, for people.
        reason: Reason,
    },
    /// The stable snapshot was pinned.
    Pinned {
        /// Reason, for people.
        reason: Reason,
    },
    /// The pin was removed.
    Unpinned,
    /// A snapshot was rejected.
    Rejected {
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// Reason, for people.
        reason: Reason,
    },
}

/// The result of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pointer changes to this one.
    Changed(Box<Pointer>),
    /// The decision was made before, or nothing is due.
    Unchanged,
}

/// A decision that the pointer does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A snapshot of a newer plan is published.
    #[error("a snapshot of a newer plan is published")]
    Superseded,
    /// The snapshot was rejected.
    #[error("snapshot {0} was rejected. Build a new one with `prepull build`")]
    IsRejected(SnapshotId),
    /// The pointer is pinned.
    #[error("the pointer is pinned: {reason}. Remove the pin with `prepull unpin` first")]
    IsPinned {
        /// Reason of the pin.
        reason: Reason,
    },
    /// There is no candidate.
    #[error(
        "no candidate waits for its promotion. Build one with `prepull build`, or see `prepull status`"
    )]
    NoCandidate,
    /// The given snapshot is not a candidate.
    #[error(
        "snapshot {0} is not the candidate. `prepull status` shows the candidate of each architecture"
    )]
    NotTheCandidate(SnapshotId),
    /// There is no stable snapshot.
    #[error(
        "no snapshot is stable. Build one with `prepull build`, or promote a candidate with `prepull promote`"
    )]
    NoStable,
    /// There is no earlier snapshot to return to.
    #[error(
        "no earlier snapshot exists to return to. Keep the nodes as they are with `prepull pin`, or build a new snapshot \
         with `prepull build`"
    )]
    NoPrevious,
    /// Nodes use the snapshot.
    #[error("snapshot {0} is stable, so nodes use it. Run `prepull rollback` instead")]
    IsStable(SnapshotId),
}

impl Pointer {
    /// Returns the pointer before any decision. `stable` is the published snapshot of a version without decisions.
    #[must_use]
    pub fn initial(stable: Option<PublishedSnapshot>) -> Self {
        Self {
            sequence: 0,
            newest_plan: stable.as_ref().map(|snapshot| snapshot.planned_at),
            stable,
            stable_since: None,
            previous: None,
            candidate: None,
            promote_at: None,
            queued: None,
            pin: None,
            rejected: Vec::new(),
            change: None,
            updated_at: None,
        }
    }

    /// Returns the newest snapshot that was not rejected. The next build starts from it.
    #[must_use]
    pub fn newest(&self) -> Option<&PublishedSnapshot> {
        self.queued
            .as_ref()
            .or(self.candidate.as_ref())
            .or(self.stable.as_ref())
    }

    /// Returns the candidate, or the stable snapshot without a candidate. Canary nodes use it.
    #[must_use]
    pub fn canary(&self) -> Option<&PublishedSnapshot> {
        self.candidate.as_ref().or(self.stable.as_ref())
    }

    /// Returns whether the pointer remembers the rejection of a snapshot.
    #[must_use]
    pub fn is_rejected(&self, snapshot: &SnapshotId) -> bool {
        self.rejected
            .iter()
            .any(|rejection| rejection.snapshot_id == *snapshot)
    }

    /// Returns all snapshots that the pointer refers to.
    pub fn held(&self) -> impl Iterator<Item = &PublishedSnapshot> {
        [&self.stable, &self.previous, &self.candidate, &self.queued]
            .into_iter()
            .flatten()
    }

    /// Returns the pointer as a consumer in another Region sees it, with the IDs of the copies there.
    #[must_use]
    pub fn in_region(&self, region: &RegionName) -> Self {
        let there = |snapshot: &Option<PublishedSnapshot>| snapshot.as_ref()?.in_region(region);
        let rejected = self.rejected.iter().filter_map(|rejection| {
            Some(Rejection {
                snapshot_id: rejection.copies.get(region)?.clone(),
                copies: BTreeMap::new(),
                ..rejection.clone()
            })
        });
        Self {
            stable: there(&self.stable),
            previous: there(&self.previous),
            candidate: there(&self.candidate),
            queued: there(&self.queued),
            rejected: rejected.collect(),
            ..self.clone()
        }
    }

    /// Returns the Regions with a copy of a snapshot that the pointer refers to.
    pub fn regions(&self) -> impl Iterator<Item = &RegionName> {
        let regions: std::collections::BTreeSet<_> = self
            .held()
            .flat_map(|snapshot| snapshot.copies.keys())
            .collect();
        regions.into_iter()
    }

    /// Returns the pointer after `decision` at the time `now`.
    ///
    /// # Errors
    /// A [`Refusal`] if the decision contradicts an earlier one.
    pub fn after(&self, decision: &Decision, now: Timestamp) -> Result<Verdict, Refusal> {
        let mut next = self.clone();
        let change = match decision {
            Decision::Publish {
                snapshot,
                promotion,
            } => next.publish(snapshot, *promotion, now)?,
            Decision::Promote {
                snapshot,
                promotion,
            } => next.promote(snapshot.as_ref(), *promotion, now)?,
            Decision::PromoteDue { promotion } => next.promote_due(*promotion, now),
            Decision::RollBack { reason } => next.roll_back(reason, now)?,
            Decision::Pin { reason } => next.pin(reason, now)?,
            Decision::Unpin { promotion } => next.unpin(*promotion),
            Decision::Reject {
                snapshot,
                reason,
                promotion,
            } => next.reject(snapshot, reason, *promotion, now)?,
        };
        let Some(change) = change else {
            return Ok(Verdict::Unchanged);
        };
        if next.stable != self.stable {
            next.stable_since = Some(now);
        }
        next.sequence += 1;
        next.change = Some(change);
        next.updated_at = Some(now);
        Ok(Verdict::Changed(Box::new(next)))
    }

    fn publish(
        &mut self,
        snapshot: &PublishedSnapshot,
        promotion: Promotion,
        now: Timestamp,
    ) -> Result<Option<Change>, Refusal> {
        let snapshot_id = snapshot.snapshot_id.clone();
        if self.is_rejected(&snapshot_id) {
            return Err(Refusal::IsRejected(snapshot_id));
        }
        if self.held().any(|held| held.snapshot_id == snapshot_id) {
            return Ok(None);
        }
        if self
            .newest_plan
            .is_some_and(|newest| queue::is_superseded(snapshot.planned_at, newest))
        {
            return Err(Refusal::Superseded);
        }
        self.newest_plan = Some(snapshot.planned_at);
        let snapshot = snapshot.clone();
        if promotion == Promotion::Immediate && self.pin.is_none() {
            self.make_stable(snapshot);
            self.candidate = None;
            self.queued = None;
            self.promote_at = None;
            return Ok(Some(Change::PublishedAndPromoted { snapshot_id }));
        }
        let soaks = matches!(promotion, Promotion::Soak { .. });
        if soaks && self.promote_at.is_some() && self.candidate.is_some() {
            self.queued = Some(snapshot);
        } else {
            self.candidate = Some(snapshot);
            self.queued = None;
            self.promote_at = promotion.due(now);
        }
        Ok(Some(Change::Published { snapshot_id }))
    }

    fn promote(
        &mut self,
        wanted: Option<&SnapshotId>,
        promotion: Promotion,
        now: Timestamp,
    ) -> Result<Option<Change>, Refusal> {
        if let Some(wanted) = wanted {
            if self.is_rejected(wanted) {
                return Err(Refusal::IsRejected(wanted.clone()));
            }
            if self
                .stable
                .as_ref()
                .is_some_and(|stable| stable.snapshot_id == *wanted)
            {
                return Ok(None);
            }
        }
        let newest = self.queued.as_ref().or(self.candidate.as_ref());
        let chosen = match wanted {
            None if newest.is_none() && self.stable.is_some() => return Ok(None),
            None => newest.ok_or(Refusal::NoCandidate)?,
            Some(wanted) => [&self.candidate, &self.queued]
                .into_iter()
                .flatten()
                .find(|snapshot| snapshot.snapshot_id == *wanted)
                .ok_or_else(|| Refusal::NotTheCandidate(wanted.clone()))?,
        }
        .clone();
        if let Some(pin) = &self.pin {
            return Err(Refusal::IsPinned {
                reason: pin.reason.clone(),
            });
        }
        // An older candidate than the chosen one goes. A newer one takes its place.
        self.queued
            .take_if(|queued| queued.snapshot_id == chosen.snapshot_id);
        self.next_candidate(promotion, now);
        Ok(Some(self.promoted(chosen)))
    }

    fn promote_due(&mut self, promotion: Promotion, now: Timestamp) -> Option<Change> {
        let candidate = self.candidate.clone()?;
        if self.pin.is_some() {
            return None;
        }
        match (promotion, self.promote_at) {
            (Promotion::Manual, _) => None,
            (Promotion::Soak { .. }, None) => {
                self.promote_at = promotion.due(now);
                Some(Change::SoakStarted {
                    snapshot_id: candidate.snapshot_id,
                })
            }
            (Promotion::Soak { .. }, Some(due)) if now < due => None,
            (Promotion::Soak { .. }, Some(_)) => {
                self.next_candidate(promotion, now);
                Some(self.promoted(candidate))
            }
            (Promotion::Immediate, _) => {
                let newest = self.queued.take().unwrap_or(candidate);
                self.next_candidate(promotion, now);
                Some(self.promoted(newest))
            }
        }
    }

    fn roll_back(&mut self, reason: &Reason, now: Timestamp) -> Result<Option<Change>, Refusal> {
        // A repeated call finds its own pin.
        if self
            .pin
            .as_ref()
            .is_some_and(|pin| pin.rolled_back_from.is_some())
        {
            return Ok(None);
        }
        let bad = self.stable.clone().ok_or(Refusal::NoStable)?;
        let good = self.previous.take().ok_or(Refusal::NoPrevious)?;
        let to = good.snapshot_id.clone();
        self.stable = Some(good);
        let from = bad.snapshot_id.clone();
        self.remember_rejected(from.clone(), bad.copies, reason, now);
        self.pin = Some(Pin {
            reason: reason.clone(),
            since: now,
            rolled_back_from: Some(from.clone()),
        });
        Ok(Some(Change::RolledBack {
            from,
            to,
            reason: reason.clone(),
        }))
    }

    fn pin(&mut self, reason: &Reason, now: Timestamp) -> Result<Option<Change>, Refusal> {
        if self.stable.is_none() {
            return Err(Refusal::NoStable);
        }
        let rolled_back_from = match &self.pin {
            Some(pin) if pin.reason == *reason => return Ok(None),
            Some(pin) => pin.rolled_back_from.clone(),
            None => None,
        };
        self.pin = Some(Pin {
            reason: reason.clone(),
            since: now,
            rolled_back_from,
        });
        Ok(Some(Change::Pinned {
            reason: reason.clone(),
        }))
    }

    fn unpin(&mut self, promotion: Promotion) -> Option<Change> {
        self.pin.take()?;
        if promotion == Promotion::Immediate
            && let Some(candidate) = self.queued.take().or(self.candidate.take())
        {
            self.candidate = None;
            self.promote_at = None;
            return Some(self.promoted(candidate));
        }
        Some(Change::Unpinned)
    }

    fn reject(
        &mut self,
        snapshot: &SnapshotId,
        reason: &Reason,
        promotion: Promotion,
        now: Timestamp,
    ) -> Result<Option<Change>, Refusal> {
        if self.is_rejected(snapshot) {
            return Ok(None);
        }
        let is_it = |held: &mut PublishedSnapshot| held.snapshot_id == *snapshot;
        if self.stable.as_mut().is_some_and(is_it) {
            return Err(Refusal::IsStable(snapshot.clone()));
        }
        let previous = self.previous.take_if(is_it);
        let queued = self.queued.take_if(is_it);
        let candidate = self.candidate.take_if(is_it);
        if candidate.is_some() {
            self.next_candidate(promotion, now);
        }
        let copies = previous.or(queued).or(candidate).map(|held| held.copies);
        self.remember_rejected(snapshot.clone(), copies.unwrap_or_default(), reason, now);
        Ok(Some(Change::Rejected {
            snapshot_id: snapshot.clone(),
            reason: reason.clone(),
        }))
    }

    /// Makes the queued snapshot the candidate and starts its soak.
    fn next_candidate(&mut self, promotion: Promotion, now: Timestamp) {
        self.candidate = self.queued.take();
        self.promote_at = self.candidate.as_ref().and_then(|_| promotion.due(now));
    }

    fn make_stable(&mut self, snapshot: PublishedSnapshot) {
        if let Some(stable) = self.stable.replace(snapshot) {
            self.previous = Some(stable);
        }
    }

    fn promoted(&mut self, snapshot: PublishedSnapshot) -> Change {
        let snapshot_id = snapshot.snapshot_id.clone();
        self.make_stable(snapshot);
        Change::Promoted { snapshot_id }
    }

    fn remember_rejected(
        &mut self,
        snapshot_id: SnapshotId,
        copies: BTreeMap<RegionName, SnapshotId>,
        reason: &Reason,
        at: Timestamp,
    ) {
        self.rejected.push(Rejection {
            snapshot_id,
            copies,
            reason: reason.clone(),
            at,
        });
        let excess = self.rejected.len().saturating_sub(REMEMBERED_REJECTIONS);
        self.rejected.drain(..excess);
    }
}

impl Promotion {
    /// Returns the end of a soak that starts now. Other promotions have none.
    fn due(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Soak { soak_minutes } => {
                Some(now + SignedDuration::from_mins(i64::from(soak_minutes.get())))
            }
            Self::Immediate | Self::Manual => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a time.
    pub(in crate::snapshot) fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Returns snapshot number `n`, from the plan number `n`.
    pub(in crate::snapshot) fn published(n: u8) -> PublishedSnapshot {
        let copy = format!("snap-0000c0{n:02x}").parse().unwrap();
        PublishedSnapshot {
            snapshot_id: id(n),
            copies: BTreeMap::from([("eu-central-1".parse().unwrap(), copy)]),
            content_key: format!("{n:064x}").parse().unwrap(),
            variant: "aws-k8s-1.33".parse().unwrap(),
            bottlerocket_version: "1.50.0".parse().unwrap(),
            volume_size: GiB(50),
            used: Bytes(9_000_000_000),
            images: 8,
            execution: format!("web-{n}").parse().unwrap(),
            planned_at: time(i64::from(n)),
            completed_at: time(i64::from(n)),
        }
    }

    fn id(n: u8) -> SnapshotId {
        format!("snap-000000{n:02x}").parse().unwrap()
    }

    fn reason() -> Reason {
        "an image is missing".parse().unwrap()
    }

    fn soak() -> Promotion {
        Promotion::Soak {
            soak_minutes: 60.try_into().unwrap(),
        }
    }

    /// Returns the pointer after these decisions, each a second after the one before.
    fn pointer(decisions: &[Decision]) -> Pointer {
        let mut pointer = Pointer::initial(Some(published(1)));
        for (decision, second) in decisions.iter().zip(1_000..) {
            if let Verdict::Changed(next) = pointer.after(decision, time(second)).unwrap() {
                pointer = *next;
            }
        }
        pointer
    }

    fn publish(n: u8, promotion: Promotion) -> Decision {
        Decision::Publish {
            snapshot: Box::new(published(n)),
            promotion,
        }
    }

    fn ids(pointer: &Pointer) -> [Option<&str>; 4] {
        [
            &pointer.stable,
            &pointer.previous,
            &pointer.candidate,
            &pointer.queued,
        ]
        .map(|snapshot| snapshot.as_ref().map(|it| it.snapshot_id.as_str()))
    }

    #[test]
    fn immediate_promotion_makes_the_snapshot_stable() {
        let pointer = pointer(&[publish(2, Promotion::Immediate)]);
        assert_eq!(
            ids(&pointer),
            [Some("snap-00000002"), Some("snap-00000001"), None, None]
        );
    }

    #[test]
    fn manual_promotion_waits_for_the_command() {
        let promote = Decision::Promote {
            snapshot: Some(id(3)),
            promotion: Promotion::Manual,
        };
        let publications = [publish(2, Promotion::Manual), publish(3, Promotion::Manual)];
        assert_eq!(
            ids(&pointer(&publications)),
            [Some("snap-00000001"), None, Some("snap-00000003"), None]
        );
        let promoted = pointer(&[&publications[..], &[promote]].concat());
        assert_eq!(
            ids(&promoted),
            [Some("snap-00000003"), Some("snap-00000001"), None, None]
        );
    }

    #[test]
    fn soaking_candidate_keeps_its_place_and_its_time() {
        let soaking = pointer(&[publish(2, soak()), publish(3, soak()), publish(4, soak())]);
        assert_eq!(
            ids(&soaking),
            [
                Some("snap-00000001"),
                None,
                Some("snap-00000002"),
                Some("snap-00000004")
            ]
        );
        let due = Decision::PromoteDue { promotion: soak() };
        let end = soaking.promote_at.unwrap();
        assert_eq!(end, time(1_000 + 3_600));
        let early = time(end.as_second() - 1);
        assert_eq!(soaking.after(&due, early), Ok(Verdict::Unchanged));
        let Ok(Verdict::Changed(promoted)) = soaking.after(&due, end) else {
            panic!("the candidate is due");
        };
        assert_eq!(
            ids(&promoted),
            [
                Some("snap-00000002"),
                Some("snap-00000001"),
                Some("snap-00000004"),
                None
            ]
        );
        assert_eq!(promoted.promote_at, Some(time(end.as_second() + 3_600)));
    }

    #[test]
    fn changed_configuration_applies_to_waiting_candidates() {
        let due = |promotion| Decision::PromoteDue { promotion };
        let waiting = pointer(&[publish(2, soak()), publish(3, Promotion::Manual)]);
        assert_eq!(
            ids(&waiting),
            [Some("snap-00000001"), None, Some("snap-00000003"), None]
        );
        assert_eq!(waiting.promote_at, None);
        let waiting = pointer(&[publish(2, Promotion::Manual)]);
        let manual = due(Promotion::Manual);
        assert_eq!(waiting.after(&manual, time(9_999)), Ok(Verdict::Unchanged));
        let Ok(Verdict::Changed(soaking)) = waiting.after(&due(soak()), time(2_000)) else {
            panic!("the soak starts");
        };
        assert_eq!(soaking.promote_at, Some(time(2_000 + 3_600)));
        assert_eq!(soaking.stable, waiting.stable);
        let queued = pointer(&[publish(2, soak()), publish(3, soak())]);
        let Ok(Verdict::Changed(promoted)) = queued.after(&due(Promotion::Immediate), time(2_000))
        else {
            panic!("the newest is promoted");
        };
        assert_eq!(
            ids(&promoted),
            [Some("snap-00000003"), Some("snap-00000001"), None, None]
        );
        let candidate = Decision::Promote {
            snapshot: Some(id(2)),
            promotion: soak(),
        };
        let Ok(Verdict::Changed(promoted)) = queued.after(&candidate, time(2_000)) else {
            panic!("the candidate is promoted early");
        };
        assert_eq!(promoted.candidate, Some(published(3)));
        assert_eq!(promoted.promote_at, Some(time(2_000 + 3_600)));
    }

    #[test]
    fn rolled_back_snapshot_never_returns() {
        let roll_back = Decision::RollBack { reason: reason() };
        let rolled_back = pointer(&[publish(2, Promotion::Immediate), roll_back.clone()]);
        assert_eq!(ids(&rolled_back), [Some("snap-00000001"), None, None, None]);
        assert_eq!(rolled_back.newest(), Some(&published(1)));
        assert_eq!(
            rolled_back.after(&roll_back, time(0)),
            Ok(Verdict::Unchanged)
        );
        assert_eq!(
            rolled_back.after(&publish(2, Promotion::Immediate), time(0)),
            Err(Refusal::IsRejected(id(2)))
        );
        // The next build publishes a candidate, and nodes stay on the good snapshot.
        let Ok(Verdict::Changed(next)) =
            rolled_back.after(&publish(3, Promotion::Immediate), time(0))
        else {
            panic!("a pinned pointer accepts candidates");
        };
        assert_eq!(
            ids(&next),
            [Some("snap-00000001"), None, Some("snap-00000003"), None]
        );
        let unpin = Decision::Unpin {
            promotion: Promotion::Immediate,
        };
        let Ok(Verdict::Changed(next)) = next.after(&unpin, time(0)) else {
            panic!("the pin goes");
        };
        assert_eq!(
            ids(&next),
            [Some("snap-00000003"), Some("snap-00000001"), None, None]
        );
    }

    #[test]
    fn refusals_tell_the_remedy() {
        let pinned = pointer(&[
            publish(2, Promotion::Manual),
            Decision::Pin { reason: reason() },
        ]);
        let stable = pointer(&[]);
        let reject = |n| Decision::Reject {
            snapshot: id(n),
            reason: reason(),
            promotion: Promotion::Immediate,
        };
        let promote = |snapshot| Decision::Promote {
            snapshot,
            promotion: Promotion::Manual,
        };
        let none = Pointer::initial(None);
        insta::assert_snapshot!(
            [
                pinned.after(&promote(None), time(0)),
                pinned.after(&promote(Some(id(9))), time(0)),
                stable.after(&reject(1), time(0)),
                stable.after(&Decision::RollBack { reason: reason() }, time(0)),
                none.after(&Decision::RollBack { reason: reason() }, time(0)),
                none.after(&promote(None), time(0)),
                pointer(&[reject(2)]).after(&publish(2, Promotion::Immediate), time(0)),
                stable.after(&publish(0, Promotion::Immediate), time(0)),
            ]
            .map(|result| result.unwrap_err().to_string())
            .join("\n")
        );
    }

    #[test]
    fn reason_is_one_line_of_text() {
        for wrong in ["", "  ", "two\nlines", &"a".repeat(151)] {
            let error = wrong.parse::<Reason>().unwrap_err().to_string();
            assert!(error.starts_with("invalid reason"), "{error}");
        }
        assert_eq!(reason().to_string(), "an image is missing");
    }

    #[test]
    fn pointer_in_another_region_has_the_ids_of_the_copies() {
        let pointer = pointer(&[publish(2, Promotion::Immediate)]);
        let region = "eu-central-1".parse().unwrap();
        let there = pointer.in_region(&region);
        assert_eq!(
            ids(&there),
            [Some("snap-0000c002"), Some("snap-0000c001"), None, None]
        );
        let other = "us-east-1".parse().unwrap();
        assert_eq!(ids(&pointer.in_region(&other)), [None; 4]);
        assert_eq!(pointer.regions().collect::<Vec<_>>(), [&region]);
    }

    fn any_decision() -> impl Strategy<Value = Decision> {
        let promotion = prop::sample::select(vec![Promotion::Immediate, Promotion::Manual, soak()]);
        let n = 0..12u8;
        prop_oneof![
            4 => (n.clone(), promotion.clone()).prop_map(|(n, promotion)| publish(n, promotion)),
            1 => (prop::option::of(n.clone()), promotion.clone()).prop_map(|(n, promotion)| Decision::Promote {
                snapshot: n.map(id), promotion,
            }),
            2 => promotion.clone().prop_map(|promotion| Decision::PromoteDue { promotion }),
            1 => Just(Decision::RollBack { reason: reason() }),
            1 => Just(Decision::Pin { reason: reason() }),
            1 => promotion.clone().prop_map(|promotion| Decision::Unpin { promotion }),
            1 => (n, promotion).prop_map(|(n, promotion)| Decision::Reject {
                snapshot: id(n), reason: reason(), promotion,
            }),
        ]
    }

    proptest! {
        #[test]
        fn pointer_keeps_its_rules(
            decisions in prop::collection::vec((any_decision(), 0..3_000i64), 1..30),
        ) {
            let mut pointer = Pointer::initial(None);
            let mut now = 1_000;
            for (decision, seconds) in decisions {
                now += seconds;
                let Ok(Verdict::Changed(next)) = pointer.after(&decision, time(now)) else {
                    continue;
                };
                prop_assert_eq!(next.sequence, pointer.sequence + 1);
                prop_assert!(!next.held().any(|held| next.is_rejected(&held.snapshot_id)));
                let held: Vec<_> = next.held().map(|held| &held.snapshot_id).collect();
                prop_assert!((1..held.len()).all(|at| !held[..at].contains(&held[at])), "twice: {:?}", held);
                prop_assert!(next.newest_plan >= pointer.newest_plan);
                prop_assert!(next.queued.is_none() || next.candidate.is_some());
                prop_assert!(next.promote_at.is_none() || next.candidate.is_some());
                if pointer.pin.is_some() && next.pin.is_some() {
                    let is_roll_back = matches!(next.change, Some(Change::RolledBack { .. }));
                    prop_assert!(is_roll_back || next.stable == pointer.stable);
                }
                // A repeated decision changes nothing. Promotions without an ID may find another candidate.
                if !matches!(decision, Decision::Promote { snapshot: None, .. } | Decision::PromoteDue { .. }) {
                    let again = next.after(&decision, time(now));
                    prop_assert!(!matches!(again, Ok(Verdict::Changed(_))), "{:?} again: {:?}", decision, again);
                }
                let json = serde_json::to_string(&next).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Pointer>(&json).unwrap(), &*next);
                prop_assert!(json.len() < 4_096, "{} bytes", json.len());
                pointer = *next;
            }
        }
    }
}
