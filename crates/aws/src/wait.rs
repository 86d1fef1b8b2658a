//! Polls with a deadline. All waiting of the stages goes through this module.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use prepull_domain::StageError;
use tokio::time::Instant;

/// Time before the function's timeout at which a stage stops waiting, so that its answer still arrives.
const MARGIN: Duration = Duration::from_secs(5);

/// The interval between two polls. It grows with the time already waited, so that short waits end promptly and long ones
/// need few calls.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    shortest: Duration,
    longest: Duration,
}

impl Pace {
    /// Returns an interval of an eighth of the time already waited, from half a second to `longest`.
    #[must_use]
    pub const fn up_to(longest: Duration) -> Self {
        Self {
            shortest: Duration::from_millis(500),
            longest,
        }
    }

    fn after(self, waited: Duration) -> Duration {
        (waited / 8).max(self.shortest).min(self.longest)
    }
}

impl From<Duration> for Pace {
    /// Returns a constant interval.
    fn from(interval: Duration) -> Self {
        Self {
            shortest: interval,
            longest: interval,
        }
    }
}

/// The time by which a stage must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline of an invocation that Lambda ends at `time_out`.
    #[must_use]
    pub fn before(time_out: SystemTime) -> Self {
        let left = time_out
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        Self::after(left.saturating_sub(MARGIN))
    }

    /// Returns a deadline `left` from now.
    #[must_use]
    pub fn after(left: Duration) -> Self {
        Self(Instant::now() + left)
    }

    /// Returns the earlier of this deadline and one `left` from now.
    #[must_use]
    pub fn at_most(self, left: Duration) -> Self {
        self.min(Self::after(left))
    }

    /// Calls `question` at every `pace` until it has an answer. An error ends the wait at once. It calls `question` at least
    /// once, and fails with [`StageError::StillRunning`] if the deadline comes before the next call.
    ///
    /// # Errors
    /// The error of `question`, or [`StageError::StillRunning`] with `waiting_for`.
    pub async fn poll<T>(
        self,
        pace: impl Into<Pace>,
        waiting_for: &str,
        mut question: impl AsyncFnMut() -> Result<Option<T>, StageError>,
    ) -> Result<T, StageError> {
        let (pace, start) = (pace.into(), Instant::now());
        loop {
            // Boxed, because the SDK's futures are nested so deeply that a few more levels exceed the compiler's limit.
            if let Some(answer) = Box::pin(question()).await? {
                return Ok(answer);
            }
            self.pause(pace.after(start.elapsed()), waiting_for).await?;
        }
    }

    /// Waits for `length`, or fails with [`StageError::StillRunning`] at once if the deadline comes first.
    ///
    /// # Errors
    /// [`StageError::StillRunning`] with `waiting_for`.
    pub async fn pause(self, length: Duration, waiting_for: &str) -> Result<(), StageError> {
        if Instant::now() + length >= self.0 {
            return Err(StageError::StillRunning(waiting_for.to_owned()));
        }
        tokio::time::sleep(length).await;
        Ok(())
    }

    /// Fails with [`StageError::StillRunning`] after the deadline. For loops that do more than poll.
    ///
    /// # Errors
    /// [`StageError::StillRunning`] with `waiting_for`.
    pub fn check(self, waiting_for: &str) -> Result<(), StageError> {
        if Instant::now() >= self.0 {
            Err(StageError::StillRunning(waiting_for.to_owned()))
        } else {
            Ok(())
        }
    }
}

/// Converts a time of the SDK, to the millisecond. A time out of range becomes the nearest one in range.
#[must_use]
pub fn timestamp(time: &aws_smithy_types::DateTime) -> Timestamp {
    let milliseconds = time.to_millis().ok();
    milliseconds
        .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok())
        .unwrap_or(if time.secs() < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn poll_repeats_until_the_check_succeeds() {
        let mut asked = 0;
        let answer = Deadline::after(Duration::from_secs(60))
            .poll(Duration::from_secs(1), "the third time", async || {
                asked += 1;
                Ok((asked == 3).then_some(asked))
            })
            .await;
        assert_eq!(answer, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn poll_fails_before_the_deadline_with_the_pending_step() {
        let start = Instant::now();
        let answer: Result<(), _> = Deadline::after(Duration::from_secs(10))
            .poll(Duration::from_secs(3), "the instance to stop", async || {
                Ok(None)
            })
            .await;
        assert_eq!(
            answer,
            Err(StageError::StillRunning("the instance to stop".into()))
        );
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn pace_grows_with_the_time_waited() {
        let pace = Pace::up_to(Duration::from_secs(2));
        let after = [0, 4, 8, 16, 60].map(|seconds| pace.after(Duration::from_secs(seconds)));
        assert_eq!(
            after.map(|interval| interval.as_millis()),
            [500, 500, 1_000, 2_000, 2_000]
        );
        let constant = Pace::from(Duration::from_secs(3));
        assert_eq!(
            constant.after(Duration::from_secs(60)),
            Duration::from_secs(3)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn poll_checks_once_after_the_deadline() {
        let answer = Deadline::after(Duration::ZERO)
            .poll(Duration::from_secs(1), "", async || Ok(Some(1)))
            .await;
        assert_eq!(answer, Ok(1));
    }
}
