//! Executions of the state machine: their names and ARNs.
//!
//! The name of an execution is the debounce. Step Functions refuses a name that is in use, so all triggers of one cache
//! within one debounce window share one execution.

use jiff::{SignedDuration, Timestamp};

use crate::cache::config::CacheName;
use crate::ids::identifier;

identifier!(
    /// The name of an execution. It is also the value of the tag `prepull:execution`.
    ExecutionName, "an execution name", "1 to 80 letters, digits, `-` and `_`", |s| {
        (1..=80).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }
);

identifier!(
    /// The ARN of an execution.
    ExecutionArn, "an execution ARN", "`arn:…:states:region:account:execution:machine:name`", |s| {
        let parts: Vec<_> = s.split(':').collect();
        parts.len() == 8
            && parts[0] == "arn"
            && parts[2] == "states"
            && parts[5] == "execution"
            && parts[7].parse::<ExecutionName>().is_ok()
    }
);

impl ExecutionArn {
    /// Returns the name of the execution, which is the last part of the ARN.
    ///
    /// # Panics
    /// Never. The constructor has parsed the name.
    #[must_use]
    pub fn name(&self) -> ExecutionName {
        let (_, name) = self
            .as_str()
            .rsplit_once(':')
            .expect("the constructor saw eight parts");
        name.parse().expect("the constructor checked the name")
    }
}

/// The origin of an execution, read from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// start-build started it for triggers: `<cache>-<debounce window>`.
    Trigger {
        /// The cache in the name.
        cache: &'a str,
    },
    /// `prepull build` started it: `<cache>-manual-<milliseconds>`.
    Manual {
        /// The cache in the name.
        cache: &'a str,
    },
    /// Another tool or a person chose the name. It can belong to any cache.
    Foreign,
}

/// Separator between cache and time in the names of manual executions.
const MANUAL: &str = "-manual";

/// Maximum debounce in seconds. Source: `debounce_seconds` in the Terraform module.
const MAX_DEBOUNCE: i64 = 3_600;

/// Maximum age in seconds of a trigger when its execution starts. EventBridge delivers an event within one hour and
/// Lambda calls the function within another. Source: `maximum_event_age_in_seconds` in the Terraform module.
const MAX_TRIGGER_AGE: i64 = 2 * 3_600;

impl ExecutionName {
    /// Returns the name for the triggers of `cache` in the debounce window that contains `at`.
    ///
    /// The execution waits `debounce` before it plans, so it plans after the window has ended. A trigger that
    /// `StartExecution` refuses because the name is in use is therefore older than the plan.
    ///
    /// # Panics
    /// Never. A cache name has at most 32 characters and a number at most 20.
    #[must_use]
    pub fn for_trigger(cache: &CacheName, at: Timestamp, debounce: SignedDuration) -> Self {
        let window = at.as_second().div_euclid(debounce.as_secs().max(1));
        format!("{cache}-{window}")
            .parse()
            .expect("a cache name and a number form an execution name")
    }

    /// Returns the name for a build that a person starts at `at`.
    ///
    /// # Panics
    /// Never, for the same reason as [`ExecutionName::for_trigger`].
    #[must_use]
    pub fn manual(cache: &CacheName, at: Timestamp) -> Self {
        format!("{cache}{MANUAL}-{}", at.as_millisecond())
            .parse()
            .expect("a cache name and a number form an execution name")
    }

    /// Returns the origin of an execution with this name that started at `started_at`.
    ///
    /// The number in the name must match the start time. Any other number is a person's own choice.
    #[must_use]
    pub fn origin(&self, started_at: Timestamp) -> Origin<'_> {
        let Some((named, number)) = self.as_str().rsplit_once('-') else {
            return Origin::Foreign;
        };
        let Ok(number) = number.parse::<i64>() else {
            return Origin::Foreign;
        };
        let started = started_at.as_second();
        // A window number is the trigger's time divided by the debounce. `prepull build` writes milliseconds.
        let is_window = |window: i64| {
            let debounce = started.checked_div(window).unwrap_or_default();
            (1..=MAX_DEBOUNCE).contains(&debounce) && started % window <= debounce + MAX_TRIGGER_AGE
        };
        if is_window(number) {
            return Origin::Trigger { cache: named };
        }
        match named.strip_suffix(MANUAL) {
            Some(cache) if is_window(number / 1_000) => Origin::Manual { cache },
            _ => Origin::Foreign,
        }
    }

    /// Whether this execution, which started at `started_at`, can belong to `cache`. If so, only its input is certain.
    #[must_use]
    pub fn can_belong_to(&self, cache: &str, started_at: Timestamp) -> bool {
        match self.origin(started_at) {
            Origin::Trigger { cache: named } | Origin::Manual { cache: named } => named == cache,
            Origin::Foreign => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start time in seconds, from a real execution.
    const STARTED: i64 = 1_795_367_839;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn cache(name: &str) -> CacheName {
        name.parse().unwrap()
    }

    #[test]
    fn triggers_of_one_window_share_an_execution_name() {
        let name = |second| {
            ExecutionName::for_trigger(&cache("web"), at(second), SignedDuration::from_secs(60))
        };
        assert_eq!(name(600), name(659));
        assert_ne!(name(659), name(660));
        assert_eq!(name(600).as_str(), "web-10");
    }

    #[test]
    fn triggered_execution_belongs_to_the_cache_in_its_name() {
        for debounce in [1, 60, 977, MAX_DEBOUNCE] {
            for delay in [0, 59, MAX_TRIGGER_AGE] {
                for owner in ["web", "web-manual"] {
                    let debounce = SignedDuration::from_secs(debounce);
                    let name = ExecutionName::for_trigger(&cache(owner), at(STARTED), debounce);
                    let started_at = at(STARTED + delay);
                    assert_eq!(name.origin(started_at), Origin::Trigger { cache: owner });
                    for other in ["web", "web-manual", "web-2", "api"] {
                        let can_belong = name.can_belong_to(other, started_at);
                        assert_eq!(can_belong, other == owner, "{name} {other}");
                    }
                }
            }
        }
    }

    #[test]
    fn manual_execution_belongs_to_the_cache_in_its_name() {
        let name = ExecutionName::manual(&cache("web"), at(STARTED));
        assert_eq!(name.as_str(), "web-manual-1795367839000");
        assert_eq!(
            name.origin(at(STARTED + 2)),
            Origin::Manual { cache: "web" }
        );
        assert!(!name.can_belong_to("api", at(STARTED + 2)));
        assert!(!name.can_belong_to("web-manual", at(STARTED + 2)));
    }

    #[test]
    fn foreign_execution_can_belong_to_any_cache() {
        for name in [
            "nightly",
            "nightly-20261122",
            "api-1",
            "api-0",
            "api-99999999999999999999",
            "api-1795367839087",
            "1795367839",
            "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
        ] {
            let name: ExecutionName = name.parse().unwrap();
            assert_eq!(name.origin(at(STARTED)), Origin::Foreign, "{name}");
            assert!(name.can_belong_to("web", at(STARTED)), "{name}");
        }
    }

    #[test]
    fn execution_arn_yields_the_execution_name() {
        let arn: ExecutionArn =
            "arn:aws:states:eu-west-1:123456789012:execution:prepull-build:web-10"
                .parse()
                .unwrap();
        assert_eq!(arn.name().as_str(), "web-10");
        assert!(
            "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build"
                .parse::<ExecutionArn>()
                .is_err()
        );
    }
}
