//! Waiting: the one way in which a stage asks again until something is so.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use prepull_domain::StageError;
use tokio::time::Instant;

/// How long before the function's time-out a stage stops waiting, so that its answer still arrives.
const MARGIN: Duration = Duration::from_secs(5);

/// The moment at which a stage must have answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline of an invocation that Lambda ends at `time_out`.
    #[must_use]
    pub fn before(time_out: SystemTime) -> Self {
        let left = time_out
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        Self::after(left.saturating_sub(MARGIN))
    }

    /// A deadline `left` from now.
    #[must_use]
    pub fn after(left: Duration) -> Self {
        Self(Instant::now() + left)
    }

    /// The earlier of this deadline and one `left` from now.
    #[must_use]
    pub fn sooner(self, left: Duration) -> Self {
        self.min(Self::after(left))
    }

    /// Asks `question` every `interval` until it answers, or ends with [`StageError::StillRunning`] when the deadline
    /// comes before the next time. Errors of the question end the waiting at once. The question is asked at least once.
    ///
    /// # Errors
    /// What the question answers with, or [`StageError::StillRunning`] with `waiting_for`.
    pub async fn poll<T>(
        self,
        interval: Duration,
        waiting_for: &str,
        mut question: impl AsyncFnMut() -> Result<Option<T>, StageError>,
    ) -> Result<T, StageError> {
        loop {
            // In a box, because the SDK's futures are nested so deeply that the compiler gives up on a few more layers.
            if let Some(answer) = Box::pin(question()).await? {
                return Ok(answer);
            }
            self.pause(interval, waiting_for).await?;
        }
    }

    /// Waits for `length`, or ends with [`StageError::StillRunning`] at once where the deadline comes before that is over.
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

    /// Ends with [`StageError::StillRunning`] once the deadline has come: for loops that do more than ask.
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

/// A time as the SDK tells it. AWS's own times are always within range; a missing one is the epoch.
#[must_use]
pub fn timestamp(time: Option<&aws_smithy_types::DateTime>) -> Timestamp {
    time.and_then(|time| Timestamp::from_millisecond(time.to_millis().ok()?).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_until_it_is_answered() {
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
    async fn waiting_ends_before_the_deadline_and_says_for_what() {
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

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_once_even_when_the_deadline_is_over() {
        let answer = Deadline::after(Duration::ZERO)
            .poll(Duration::from_secs(1), "", async || Ok(Some(1)))
            .await;
        assert_eq!(answer, Ok(1));
    }
}
