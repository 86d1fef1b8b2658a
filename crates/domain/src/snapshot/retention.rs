//! Retention of snapshots.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::build::payload::SnapshotState;
use crate::ids::SnapshotId;

/// A snapshot of one cache and architecture in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// ID of the snapshot.
    pub id: SnapshotId,
    /// Time at which EBS started it. `None` if EC2 returns none. Retention then keeps the snapshot.
    pub started_at: Option<Timestamp>,
    /// State of the snapshot. `None` if it is unfinished.
    pub state: Option<SnapshotState>,
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

/// Returns the good snapshots beyond the newest `retain` that are not in `in_use`. A snapshot is in use if the pointer,
/// a machine image or a launch template refers to it.
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
