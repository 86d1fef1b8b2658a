//! Executions of the state machine: their names, and how triggers are gathered into one.

use jiff::{SignedDuration, Timestamp};

use crate::config::CacheName;
use crate::ids::identifier;

identifier!(
    /// The name of an execution: what the tag `prepull:execution` bears.
    ExecutionName, "an execution's name", "1 to 80 letters, digits, `-` and `_`", |s| {
        (1..=80).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }
);

identifier!(
    /// The ARN of an execution.
    ExecutionArn, "an execution's ARN", "`arn:…:states:region:account:execution:machine:name`", |s| {
        let parts: Vec<_> = s.split(':').collect();
        parts.len() == 8
            && parts[0] == "arn"
            && parts[2] == "states"
            && parts[5] == "execution"
            && parts[7].parse::<ExecutionName>().is_ok()
    }
);

impl ExecutionArn {
    /// The execution's own name, the last part of the ARN.
    ///
    /// # Panics
    /// Never: whoever made the ARN saw that it ends in a name.
    #[must_use]
    pub fn name(&self) -> ExecutionName {
        let (_, name) = self
            .as_str()
            .rsplit_once(':')
            .expect("the constructor saw eight parts");
        name.parse().expect("the constructor checked the name")
    }
}

/// The name of the execution that answers a trigger of `cache` at `at`.
///
/// All triggers within one window of `debounce` bear the same name, so Step Functions starts one execution for them. That
/// execution waits `debounce` before it plans, which is past the window's end: no trigger that was refused because the
/// name is in use is younger than the plan.
///
/// # Panics
/// Never: a cache's name and a number make the name of an execution.
#[must_use]
pub fn name_for_trigger(
    cache: &CacheName,
    at: Timestamp,
    debounce: SignedDuration,
) -> ExecutionName {
    let window = at.as_second().div_euclid(debounce.as_secs().max(1));
    format!("{cache}-{window}")
        .parse()
        .expect("a cache's name is at most 32 characters and a number at most 20")
}

/// The longest that triggers are gathered, in seconds. Source: `debounce_seconds` in the Terraform module.
const LONGEST_DEBOUNCE: i64 = 3_600;

/// How old a trigger is at the most when its execution starts, in seconds: EventBridge delivers it within an hour, and
/// Lambda calls the function within another. Source: `maximum_event_age_in_seconds` in the Terraform module.
const OLDEST_TRIGGER: i64 = 2 * 3_600;

/// Whether an execution of this name, which started at `started_at`, may be of the cache `cache`. Where that is so, only
/// its input tells.
///
/// Triggers and `prepull build` name their executions after cache and time, so the name alone tells of most that they are
/// of another cache. People name theirs as they like: one whose number does not fit the time of its start may be of any
/// cache.
#[must_use]
pub fn may_be_of(cache: &str, name: &ExecutionName, started_at: Timestamp) -> bool {
    match name_without_time(name.as_str(), started_at) {
        Some(named) => named == cache || named.strip_suffix("-manual") == Some(cache),
        None => true,
    }
}

/// What comes before the time in a name that ends in the time of the start: in windows of whole seconds or, as by
/// `prepull build`, in milliseconds.
fn name_without_time(name: &str, started_at: Timestamp) -> Option<&str> {
    let (named, number) = name.rsplit_once('-')?;
    let number: i64 = number.parse().ok()?;
    let started = started_at.as_second();
    let fits = |window: i64| {
        let debounce = started.checked_div(window).unwrap_or_default();
        (1..=LONGEST_DEBOUNCE).contains(&debounce) && started % window <= debounce + OLDEST_TRIGGER
    };
    (fits(number) || fits(number / 1_000)).then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_of_one_window_bear_one_name_and_of_two_windows_two() {
        let cache: CacheName = "web".parse().unwrap();
        let name = |second| {
            name_for_trigger(
                &cache,
                Timestamp::from_second(second).unwrap(),
                SignedDuration::from_secs(60),
            )
        };
        assert_eq!(name(600), name(659));
        assert_ne!(name(659), name(660));
        assert_eq!(name(600).as_str(), "web-10");
    }

    #[test]
    fn an_execution_that_bears_another_cache_s_name_and_its_own_time_is_not_of_this_cache() {
        let cache = |name: &str| name.parse::<CacheName>().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let triggered = 1_795_367_839;
        for debounce in [1, 60, 977, LONGEST_DEBOUNCE] {
            for delay in [0, 59, OLDEST_TRIGGER] {
                let name = |of: &str| {
                    let debounce = SignedDuration::from_secs(debounce);
                    name_for_trigger(&cache(of), at(triggered), debounce)
                };
                let may_be = |of: &str| may_be_of("web", &name(of), at(triggered + delay));
                assert!(may_be("web") && may_be("web-manual"), "{}", name("web"));
                assert!(!may_be("api") && !may_be("web-2"), "{}", name("api"));
            }
        }
        let by_hand = |name: &str| may_be_of("web", &name.parse().unwrap(), at(triggered + 2));
        assert!(by_hand("web-manual-1795367839087"));
        assert!(!by_hand("api-manual-1795367839087"));
    }

    #[test]
    fn an_execution_that_a_person_named_may_be_of_any_cache() {
        let started_at = Timestamp::from_second(1_795_367_839).unwrap();
        for name in [
            "nightly",
            "nightly-20261122",
            "api-1",
            "api-0",
            "api-99999999999999999999",
            "1795367839",
            "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
        ] {
            let name = name.parse().unwrap();
            assert!(may_be_of("web", &name, started_at), "{name}");
        }
    }

    #[test]
    fn an_arn_tells_its_execution_s_name() {
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
