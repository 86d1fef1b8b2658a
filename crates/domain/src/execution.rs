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
/// All triggers within one window of `settle` bear the same name, so Step Functions starts one execution for them. That
/// execution waits `settle` before it plans, which is past the window's end: no trigger that was refused because the
/// name is in use is younger than the plan.
///
/// # Panics
/// Never: a cache's name and a number make the name of an execution.
#[must_use]
pub fn name_for_trigger(cache: &CacheName, at: Timestamp, settle: SignedDuration) -> ExecutionName {
    let window = at.as_second().div_euclid(settle.as_secs().max(1));
    format!("{cache}-{window}")
        .parse()
        .expect("a cache's name is at most 32 characters and a number at most 20")
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
