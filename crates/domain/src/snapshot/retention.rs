//! Retention of snapshots.
//!
//! Retention announces each deletion, and deletes only after a grace period. EC2 does not know which node classes have a
//! snapshot, so people and tools need the time to move their nodes to a newer one.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::build::payload::SnapshotState;
use crate::ids::SnapshotId;

/// Time for which the registration of a consumer counts. A consumer renews it each time it runs.
const REGISTERED_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A snapshot of one cache and architecture in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// ID of the snapshot.
    pub id: SnapshotId,
    /// Time at which EBS started it. `None` if EC2 returns none. Retention then keeps the snapshot.
    pub started_at: Option<Timestamp>,
    /// State of the snapshot. `None` if it is unfinished.
    pub state: Option<SnapshotState>,
    /// Time of its announced deletion.
    pub expires_at: Option<Timestamp>,
}

impl FoundSnapshot {
    /// Whether the images were verified. Only retention may delete such a snapshot.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        matches!(
            self.state,
            Some(SnapshotState::Verified | SnapshotState::Published)
        )
    }
}

/// The next step of retention for a surplus snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Announce that it will be deleted at this time.
    Announce(Timestamp),
    /// Withdraw the announcement, because the snapshot is in use.
    Withdraw,
    /// Delete it.
    Delete,
}

impl FoundSnapshot {
    /// Returns the next step for a snapshot that retention does not need. `keep` is the grace period.
    #[must_use]
    pub fn next_step(&self, is_in_use: bool, keep: SignedDuration, now: Timestamp) -> Step {
        match self.expires_at {
            Some(_) if is_in_use => Step::Withdraw,
            None if is_in_use => Step::Wait,
            None if keep.is_zero() => Step::Delete,
            None => Step::Announce(now + keep),
            Some(at) if at <= now => Step::Delete,
            Some(_) => Step::Wait,
        }
    }
}

/// A consumer that uses a snapshot outside the account's own launch templates, such as a node class of Karpenter. It
/// registers itself with a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Time of the registration.
    pub registered_at: Timestamp,
}

impl Consumer {
    /// Returns whether retention keeps the snapshot for the consumer. A registration ends after
    /// 30 days, for example that of a deleted cluster.
    #[must_use]
    pub fn counts(&self, now: Timestamp) -> bool {
        now.duration_since(self.registered_at) < REGISTERED_FOR
    }
}

/// Returns the good snapshots beyond the newest `retain` that are not in `in_use`.
///
/// It ignores unfinished and rejected snapshots.
#[must_use]
pub fn beyond_retention(
    snapshots: &[FoundSnapshot],
    retain: u8,
    in_use: &BTreeSet<SnapshotId>,
) -> Vec<SnapshotId> {
    let mut good: Vec<_> = snapshots
        .iter()
        .filter(|found| found.is_verified())
        .filter_map(|found| Some((found.started_at?, &found.id)))
        .collect();
    // The ID orders snapshots of the same instant, so every call returns the same result.
    good.sort_by(|a, b| b.cmp(a));
    good.into_iter()
        .skip(usize::from(retain).max(1))
        .map(|(_, id)| id)
        .filter(|id| !in_use.contains(id))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(n: u8, second: i64, state: Option<SnapshotState>) -> FoundSnapshot {
        FoundSnapshot {
            id: format!("snap-000000{n:02x}").parse().unwrap(),
            started_at: Some(Timestamp::from_second(second).unwrap()),
            state,
            expires_at: None,
        }
    }

    fn any_snapshots() -> impl Strategy<Value = Vec<FoundSnapshot>> {
        let state = prop::option::of(prop::sample::select(vec![
            SnapshotState::Verified,
            SnapshotState::Published,
            SnapshotState::Rejected,
        ]));
        prop::collection::btree_map(any::<u8>(), (0..9i64, state), 0..12)
            .prop_map(|snapshots| -> Vec<_> {
                snapshots
                    .into_iter()
                    .map(|(n, (second, state))| found(n, second, state))
                    .collect()
            })
            .prop_shuffle()
    }

    #[test]
    fn newest_snapshots_and_those_in_use_are_kept() {
        let published = Some(SnapshotState::Published);
        let verified = Some(SnapshotState::Verified);
        let snapshots = [
            found(1, 1, verified),
            found(2, 2, published),
            found(3, 3, verified),
            found(4, 4, verified),
            found(5, 5, Some(SnapshotState::Rejected)),
            found(6, 6, None),
        ];
        let in_use = BTreeSet::from([snapshots[1].id.clone()]);
        assert_eq!(
            beyond_retention(&snapshots, 2, &in_use),
            [snapshots[0].id.clone()]
        );
    }

    #[test]
    fn snapshot_without_start_time_is_kept() {
        let verified = Some(SnapshotState::Verified);
        let mut snapshots = [found(1, 1, verified), found(2, 2, verified)];
        snapshots[0].started_at = None;
        assert_eq!(beyond_retention(&snapshots, 1, &BTreeSet::new()), []);
    }

    #[test]
    fn deletion_is_announced_first_and_withdrawn_if_in_use() {
        let now = Timestamp::from_second(1_000).unwrap();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let keep = SignedDuration::from_secs(60);
        let announce = Step::Announce(Timestamp::from_second(1_060).unwrap());
        for (expires_at, is_in_use, expected) in [
            (None, false, announce),
            (None, true, Step::Wait),
            (at(1_001), false, Step::Wait),
            (at(1_000), false, Step::Delete),
            (at(1_000), true, Step::Withdraw),
            (at(1_001), true, Step::Withdraw),
        ] {
            let mut found = found(1, 1, Some(SnapshotState::Verified));
            found.expires_at = expires_at;
            assert_eq!(found.next_step(is_in_use, keep, now), expected, "{found:?}");
        }
        let found = found(1, 1, Some(SnapshotState::Verified));
        assert_eq!(
            found.next_step(false, SignedDuration::ZERO, now),
            Step::Delete
        );
    }

    #[test]
    fn registration_counts_for_30_days() {
        let consumer = Consumer {
            snapshot_id: "snap-00000001".parse().unwrap(),
            registered_at: Timestamp::UNIX_EPOCH,
        };
        let day = |days: i64| Timestamp::from_second(days * 86_400).unwrap();
        assert!(consumer.counts(day(29)));
        assert!(!consumer.counts(day(30)));
    }

    proptest! {
        #[test]
        fn retention_keeps_used_unfinished_and_newest_snapshots(
            snapshots in any_snapshots(),
            retain in 0..6u8,
            used in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let in_use: BTreeSet<_> = used
                .iter()
                .filter(|_| !snapshots.is_empty())
                .map(|n| n.get(&snapshots).id.clone())
                .collect();
            let deleted = beyond_retention(&snapshots, retain, &in_use);
            let is_deleted = |found: &FoundSnapshot| deleted.contains(&found.id);
            prop_assert!(!deleted.iter().any(|id| in_use.contains(id)));
            prop_assert!(!snapshots.iter().any(|found| is_deleted(found) && !found.is_verified()));
            let newest = snapshots.iter().filter(|found| found.is_verified()).map(|found| found.started_at).max();
            let kept: Vec<_> = snapshots.iter().filter(|found| found.is_verified() && !is_deleted(found)).collect();
            prop_assert!(newest.is_none_or(|newest| kept.iter().any(|found| found.started_at == newest)));
            // Every kept snapshot is in use or at least as new as each deleted one.
            for gone in snapshots.iter().filter(|found| is_deleted(found)) {
                prop_assert!(kept.iter().all(|found| in_use.contains(&found.id) || found.started_at >= gone.started_at));
            }
        }

        #[test]
        fn retention_deletes_every_snapshot_beyond_the_limit(snapshots in any_snapshots(), retain in 1..6u8) {
            let deleted = beyond_retention(&snapshots, retain, &BTreeSet::new());
            let good = snapshots.iter().filter(|found| found.is_verified()).count();
            prop_assert_eq!(good - deleted.len(), good.min(usize::from(retain)));
        }
    }
}
