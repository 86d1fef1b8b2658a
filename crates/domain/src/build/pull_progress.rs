//! The progress text of pull-images. The CLI parses it from an execution's history.

use std::fmt;
use std::str::FromStr;

/// Counts of a target's images while pull-images runs.
///
/// pull-images puts the text into `StillRunning`; the CLI parses it and moves a progress bar. Both use this type, so
/// that the wording cannot differ.
///
/// ```
/// # use prepull_domain::PullProgress;
/// let progress: PullProgress = "3 of 8 images pulled".parse().unwrap();
/// assert_eq!(progress, PullProgress { pulled: 3, total: 8 });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// Number of planned images that are complete and unpacked on the builder.
    pub pulled: usize,
    /// Number of planned images.
    pub total: usize,
}

/// A text is not a [`PullProgress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse the pull progress `{0}`: expected a text like `3 of 8 images pulled`")]
pub struct InvalidPullProgress(String);

impl fmt::Display for PullProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} images pulled", self.pulled, self.total)
    }
}

impl FromStr for PullProgress {
    type Err = InvalidPullProgress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let counts = text
            .strip_suffix(" images pulled")
            .and_then(|counts| counts.split_once(" of "));
        let parsed = counts.and_then(|(pulled, total)| {
            Some(Self {
                pulled: pulled.parse().ok()?,
                total: total.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| InvalidPullProgress(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_wordings_do_not_parse() {
        for text in [
            "",
            "starting the pulls",
            "the images to be pulled: 1 of 2 are there",
            "one of 2 images pulled",
            "1 of 2 images pulled.",
            "1 of 2 images",
        ] {
            let error = text.parse::<PullProgress>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn pull_progress_survives_a_round_trip(pulled: usize, total: usize) {
            let progress = PullProgress { pulled, total };
            prop_assert_eq!(progress.to_string().parse(), Ok(progress));
        }
    }
}
