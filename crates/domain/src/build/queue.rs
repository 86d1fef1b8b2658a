//! The queue of a cache's executions. Builds of a cache never overlap.

use jiff::Timestamp;

use crate::build::execution::ExecutionName;

/// A running execution of a cache.
///
/// The order is by age, oldest first. The name orders executions that started in the same instant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued {
    /// Start time.
    pub started_at: Timestamp,
    /// Name of the execution.
    pub name: ExecutionName,
}

/// The position of an execution among those of its cache, which decides its next action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Builds now.
    First,
    /// Waits for an older execution to end.
    Waiting {
        /// Oldest execution, which builds.
        behind: ExecutionName,
    },
    /// Ends without a build. A newer execution is also waiting and will plan later.
    Superseded {
        /// Newest execution.
        by: ExecutionName,
    },
}

/// Returns the position of `own` among the running executions of the same cache. `running` may include `own`, which is
/// recognized by its name. Its start there may differ from `own`, because two calls of Step Functions return them.
///
/// The oldest builds, the newest waits for it, and all others end. The newest never ends without a plan, so the last
/// push is built. The oldest never waits, so one execution always builds.
#[must_use]
pub fn position(own: &Queued, running: &[Queued]) -> Position {
    let others = || running.iter().filter(|other| other.name != own.name);
    let older = others().filter(|other| *other < own).min();
    let newer = others().filter(|other| *other > own).max();
    match (older, newer) {
        (None, _) => Position::First,
        (Some(oldest), None) => Position::Waiting {
            behind: oldest.name.clone(),
        },
        (Some(_), Some(newest)) => Position::Superseded {
            by: newest.name.clone(),
        },
    }
}

/// Whether a snapshot from the plan at `planned_at` must not replace the published one. `published` is the plan time of
/// the published snapshot. Publication never goes back to an older plan.
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
    fn simultaneous_executions_agree_on_the_order() {
        let running = [queued(7, "b"), queued(7, "a")];
        assert_eq!(position(&running[1], &running), Position::First);
        assert_eq!(
            position(&running[0], &running),
            Position::Waiting {
                behind: "a".parse().unwrap()
            }
        );
    }

    #[test]
    fn execution_never_queues_behind_itself() {
        let own = queued(7, "own");
        for second in [6, 7, 8] {
            assert_eq!(position(&own, &[queued(second, "own")]), Position::First);
        }
        let running = [queued(3, "first"), queued(8, "own")];
        assert_eq!(
            position(&own, &running),
            Position::Waiting {
                behind: "first".parse().unwrap()
            }
        );
    }

    #[test]
    fn unlisted_execution_queues_behind_listed_ones() {
        let own = queued(9, "own");
        assert_eq!(position(&own, &[]), Position::First);
        assert_eq!(
            position(&own, &[queued(3, "first")]),
            Position::Waiting {
                behind: "first".parse().unwrap()
            }
        );
    }

    /// Generates one to nine executions in any order. Some start in the same second.
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
        fn queue_has_one_builder_and_at_most_one_waiter(queue in any_queue()) {
            let positions: Vec<_> = queue.iter().map(|own| position(own, &queue)).collect();
            let count = |wanted: fn(&Position) -> bool| positions.iter().filter(|position| wanted(position)).count();
            prop_assert_eq!(count(|position| matches!(position, Position::First)), 1);
            prop_assert_eq!(count(|position| matches!(position, Position::Waiting { .. })), usize::from(queue.len() > 1));
        }

        #[test]
        fn newest_execution_supersedes_those_in_between(queue in any_queue()) {
            let newest = queue.iter().max().unwrap();
            for own in &queue {
                match position(own, &queue) {
                    Position::Superseded { by } => {
                        prop_assert_ne!(own, newest);
                        prop_assert_eq!(&by, &newest.name);
                    }
                    Position::First | Position::Waiting { .. } => {}
                }
            }
        }

        #[test]
        fn newest_execution_builds_last_in_every_order(queue in any_queue(), order in any::<prop::sample::Index>()) {
            let newest = queue.iter().max().unwrap().clone();
            let mut remaining: BTreeSet<_> = queue.into_iter().collect();
            let mut built = Vec::new();
            while !remaining.is_empty() {
                let running: Vec<_> = remaining.iter().cloned().collect();
                let start = order.index(running.len());
                // Ends an execution that does not have to wait, with or without a build.
                let (own, decision) = (0..running.len())
                    .map(|n| &running[(start + n) % running.len()])
                    .map(|own| (own, position(own, &running)))
                    .find(|(_, decision)| !matches!(decision, Position::Waiting { .. }))
                    .expect("one execution does not wait");
                if decision == Position::First {
                    built.push(own.clone());
                }
                remaining.remove(own);
            }
            prop_assert_eq!(built.last(), Some(&newest));
        }
    }
}
