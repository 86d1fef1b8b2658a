//! Whose turn it is: one build of a cache at a time.

use jiff::Timestamp;

use crate::build::execution::ExecutionName;

/// A running execution of one cache. Ordered by age, the oldest first; the name decides between executions that started
/// in the same instant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued {
    /// When it started.
    pub started_at: Timestamp,
    /// Its name.
    pub name: ExecutionName,
}

/// What an execution does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It builds.
    Go,
    /// It waits for an older one to end.
    Wait {
        /// The oldest execution, which builds.
        behind: ExecutionName,
    },
    /// It ends: a newer one waits too, and will plan later than this one could have.
    Superseded {
        /// The newest execution.
        by: ExecutionName,
    },
}

/// Decides for `own`, given the executions of the same cache that run, `own` among them or not.
///
/// The oldest builds, the newest waits for it, and those between end. The newest never ends without a plan, so what was
/// pushed last is built; the oldest never waits, so somebody always builds.
#[must_use]
pub fn turn(own: &Queued, running: &[Queued]) -> Turn {
    let older = running.iter().filter(|other| *other < own).min();
    let newer = running.iter().filter(|other| *other > own).max();
    match (older, newer) {
        (None, _) => Turn::Go,
        (Some(oldest), None) => Turn::Wait {
            behind: oldest.name.clone(),
        },
        (Some(_), Some(newest)) => Turn::Superseded {
            by: newest.name.clone(),
        },
    }
}

/// Whether nodes use a snapshot of a later plan already, so that one of the plan of `planned_at` must not replace it:
/// publication never goes backwards. `published` is when the one that nodes use was planned.
#[must_use]
pub fn is_superseded(planned_at: Timestamp, published: Timestamp) -> bool {
    published > planned_at
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn queued(second: i64, name: &str) -> Queued {
        Queued {
            started_at: Timestamp::from_second(second).unwrap(),
            name: name.parse().unwrap(),
        }
    }

    #[test]
    fn executions_that_started_at_once_agree_on_whose_turn_it_is() {
        let running = [queued(7, "b"), queued(7, "a")];
        assert_eq!(turn(&running[1], &running), Turn::Go);
        assert_eq!(
            turn(&running[0], &running),
            Turn::Wait {
                behind: "a".parse().unwrap()
            }
        );
    }

    #[test]
    fn an_execution_that_is_not_listed_yet_has_its_place_all_the_same() {
        let own = queued(9, "own");
        assert_eq!(turn(&own, &[]), Turn::Go);
        assert_eq!(
            turn(&own, &[queued(3, "first")]),
            Turn::Wait {
                behind: "first".parse().unwrap()
            }
        );
    }

    /// Up to nine executions, some of which start in the same second, in any order.
    fn any_queue() -> impl Strategy<Value = Vec<Queued>> {
        prop::collection::btree_map(0..20u8, 0..5i64, 1..10)
            .prop_map(|executions| -> Vec<_> {
                executions
                    .into_iter()
                    .map(|(name, second)| queued(second, &format!("web-{name}")))
                    .collect()
            })
            .prop_shuffle()
    }

    proptest! {
        #[test]
        fn exactly_one_execution_builds_and_at_most_one_waits(queue in any_queue()) {
            let turns: Vec<_> = queue.iter().map(|own| turn(own, &queue)).collect();
            let count = |wanted: fn(&Turn) -> bool| turns.iter().filter(|turn| wanted(turn)).count();
            prop_assert_eq!(count(|turn| matches!(turn, Turn::Go)), 1);
            prop_assert_eq!(count(|turn| matches!(turn, Turn::Wait { .. })), usize::from(queue.len() > 1));
        }

        #[test]
        fn the_newest_is_never_superseded_and_is_who_supersedes(queue in any_queue()) {
            let newest = queue.iter().max().unwrap();
            for own in &queue {
                match turn(own, &queue) {
                    Turn::Superseded { by } => {
                        prop_assert_ne!(own, newest);
                        prop_assert_eq!(&by, &newest.name);
                    }
                    Turn::Go | Turn::Wait { .. } => {}
                }
            }
        }

        #[test]
        fn the_newest_builds_in_the_end_whoever_looks_first(queue in any_queue(), order in any::<prop::sample::Index>()) {
            let newest = queue.iter().max().unwrap().clone();
            let mut left: BTreeSet<_> = queue.into_iter().collect();
            let mut built = Vec::new();
            while !left.is_empty() {
                let running: Vec<_> = left.iter().cloned().collect();
                let start = order.index(running.len());
                // Whoever looks and need not wait ends: by building or without.
                let (own, decision) = (0..running.len())
                    .map(|n| &running[(start + n) % running.len()])
                    .map(|own| (own, turn(own, &running)))
                    .find(|(_, decision)| !matches!(decision, Turn::Wait { .. }))
                    .expect("somebody need not wait");
                if decision == Turn::Go {
                    built.push(own.clone());
                }
                left.remove(own);
            }
            prop_assert_eq!(built.last(), Some(&newest));
        }
    }
}
