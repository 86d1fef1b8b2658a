//! Assigns pulls to lanes. Pulls of one lane run one after the other, so the number of lanes limits the parallel pulls.
//!
//! systemd starts each pull when the pulls before it have ended. No lane waits for a command between two pulls.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use prepull_domain::Bytes;

/// The systemd unit of an attempt at a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The image's position in the plan.
    pub(crate) position: usize,
    /// Number of the attempt, from 1.
    pub(crate) attempt: u32,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.position, self.attempt)
    }
}

/// A pull to assign.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pull {
    pub(crate) unit: Unit,
    /// Compressed size of the image. It stands for the duration.
    pub(crate) size: Bytes,
    /// Position of the image that brings the layers that both begin with.
    pub(crate) base: Option<usize>,
}

/// Returns the pulls of `waiting` in the order in which systemd must get them, each with the units it follows: the previous
/// pull of its lane and the pull of its base.
///
/// `started` are the pulls that already run or wait. Their lanes are not known, so the first pull of a lane follows all of
/// them.
///
/// Of the pulls that can start first, the one with the longest chain of pulls behind it goes first, so that no large pull
/// runs alone at the end.
pub(crate) fn assign(
    lanes: usize,
    started: &[Unit],
    mut waiting: Vec<Pull>,
) -> Vec<(Unit, Vec<Unit>)> {
    let chains = chains(&waiting);
    let mut lanes = vec![Lane::default(); lanes.max(1)];
    let mut ends = BTreeMap::new();
    let mut assigned = Vec::new();
    while !waiting.is_empty() {
        let lane = first_free(&mut lanes);
        let start = |pull: &Pull| {
            let base = pull.base.and_then(|base| ends.get(&base));
            base.map_or(lane.free_at, |(end, _)| lane.free_at.max(*end))
        };
        let is_waiting = |base| waiting.iter().any(|pull| pull.unit.position == base);
        let next = (0..waiting.len())
            // Without a cycle, some pull has no base that is still to be assigned.
            .min_by_key(|index| {
                let pull = &waiting[*index];
                (
                    pull.base.is_some_and(is_waiting),
                    start(pull),
                    Reverse(chains.get(&pull.unit.position)),
                    pull.unit.position,
                )
            });
        let Some(next) = next else { break };
        let pull = waiting.remove(next);
        let base = pull.base.and_then(|base| ends.get(&base)).copied();
        let mut after = lane.last.map_or(started.to_vec(), |last| vec![last]);
        after.extend(base.map(|(_, unit)| unit));
        after.dedup();
        assigned.push((pull.unit, after));
        let end = lane.append(&pull, base.map_or(0, |(end, _)| end));
        ends.insert(pull.unit.position, (end, pull.unit));
    }
    assigned
}

/// A sequence of pulls, with its time in bytes.
#[derive(Debug, Clone, Default)]
struct Lane {
    free_at: u64,
    last: Option<Unit>,
}

impl Lane {
    /// Adds a pull that can start at `ready_at`, and returns its end.
    fn append(&mut self, pull: &Pull, ready_at: u64) -> u64 {
        self.free_at = self.free_at.max(ready_at).saturating_add(pull.size.0);
        self.last = Some(pull.unit);
        self.free_at
    }
}

fn first_free(lanes: &mut [Lane]) -> &mut Lane {
    lanes
        .iter_mut()
        .min_by_key(|lane| lane.free_at)
        .expect("there is at least one lane")
}

/// Returns the size of each pull, with that of the largest chain of pulls that wait for it.
fn chains(pulls: &[Pull]) -> BTreeMap<usize, u64> {
    let by_position: BTreeMap<_, _> = pulls
        .iter()
        .map(|pull| (pull.unit.position, pull))
        .collect();
    let mut chains = BTreeMap::new();
    for pull in pulls {
        let mut chain = 0_u64;
        let mut next = Some(pull);
        // The limit ends a cycle, which no plan has.
        for _ in 0..pulls.len() {
            let Some(pull) = next else { break };
            chain = chain.saturating_add(pull.size.0);
            let known = chains.entry(pull.unit.position).or_insert(0);
            *known = chain.max(*known);
            next = pull.base.and_then(|base| by_position.get(&base)).copied();
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unit(position: usize) -> Unit {
        Unit {
            position,
            attempt: 1,
        }
    }

    fn pull((position, (size, base)): (usize, (u64, Option<usize>))) -> Pull {
        Pull {
            unit: unit(position),
            size: Bytes(size),
            base,
        }
    }

    /// Returns the assignment of pulls with sizes and bases, as `POSITION after POSITIONS`.
    fn of(lanes: usize, started: &[Unit], pulls: &[(u64, Option<usize>)]) -> Vec<String> {
        let pulls = pulls.iter().copied().enumerate();
        assign(lanes, started, pulls.map(pull).collect())
            .into_iter()
            .map(|(unit, after)| {
                let after: Vec<_> = after.iter().map(|unit| unit.position.to_string()).collect();
                format!("{} after {}", unit.position, after.join(" "))
            })
            .collect()
    }

    #[test]
    fn largest_pulls_start_first() {
        let sizes = [(10, None), (40, None), (20, None), (30, None)];
        assert_eq!(
            of(2, &[], &sizes),
            ["1 after ", "3 after ", "2 after 3", "0 after 1"]
        );
        assert_eq!(
            of(1, &[], &sizes),
            ["1 after ", "3 after 1", "2 after 3", "0 after 2"]
        );
    }

    #[test]
    fn pull_waits_for_its_base_and_its_lane() {
        let pulls = [(10, None), (50, Some(0)), (60, Some(0)), (65, None)];
        assert_eq!(
            of(2, &[], &pulls),
            ["0 after ", "3 after ", "2 after 0", "1 after 3 0"]
        );
    }

    #[test]
    fn base_of_large_pulls_starts_before_larger_pulls() {
        let pulls = [(30, None), (10, None), (35, Some(1))];
        assert_eq!(of(1, &[], &pulls), ["1 after ", "2 after 1", "0 after 2"]);
    }

    #[test]
    fn first_pull_of_each_lane_follows_all_started_pulls() {
        let started = [8, 9].map(unit);
        let pulls = [(30, None), (20, None), (10, None)];
        assert_eq!(
            of(2, &started, &pulls),
            ["0 after 8 9", "1 after 8 9", "2 after 1"]
        );
    }

    proptest! {
        #[test]
        fn units_follow_earlier_units_within_the_lanes(
            lanes in 1..6_usize,
            started in 0..6_usize,
            given in prop::collection::vec((any::<u64>(), prop::option::of(0..20_usize)), 0..20),
            seconds in prop::collection::vec(1..100_u32, 26),
        ) {
            let pulls: Vec<_> = given.into_iter().enumerate().map(pull).collect();
            let started: Vec<_> = (20..20 + started.min(lanes)).map(unit).collect();
            let assigned = assign(lanes, &started, pulls.clone());
            prop_assert_eq!(assigned.len(), pulls.len());
            // The pulls run as systemd runs them, with durations that do not follow the sizes.
            let now = started.iter().map(|unit| (unit.position, (0, seconds[unit.position])));
            let mut runs: BTreeMap<_, _> = now.collect();
            for (unit, after) in assigned {
                let ends = after.iter().map(|unit| runs.get(&unit.position).map(|(_, end)| *end));
                let ends: Option<Vec<_>> = ends.collect();
                prop_assert!(ends.is_some(), "{unit} follows a later unit");
                let start = ends.unwrap_or_default().into_iter().max().unwrap_or(0);
                runs.insert(unit.position, (start, start + seconds[unit.position]));
            }
            for (now, _) in runs.values() {
                let running = runs.values().filter(|(start, end)| start <= now && now < end);
                prop_assert!(running.count() <= lanes);
            }
        }
    }
}
