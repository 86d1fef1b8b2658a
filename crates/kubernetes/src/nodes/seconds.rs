//! Times of pulls.

use std::fmt;
use std::iter::Sum;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A time in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(Duration);

impl Seconds {
    /// Parses a duration as Go prints it: `1.5s`, `313ms`, `1m45.457s`.
    pub(super) fn from_go(text: &str) -> Option<Self> {
        const UNITS: [(&str, u64); 7] = [
            ("ns", 1),
            ("µs", 1_000),
            ("μs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, after) = rest.split_at(end);
            let end = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
            total = total.checked_add(scaled(number, nanos)?)?;
            rest = after;
        }
        (!text.is_empty()).then(|| Self(Duration::from_nanos(total)))
    }

    /// Returns the middle between two times.
    pub(super) fn midpoint(self, other: Self) -> Self {
        Self((self.0 + other.0) / 2)
    }

    /// Returns the time as a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.0.as_secs_f64()
    }
}

/// Returns the decimal `number` times `nanos`, without fractions of a nanosecond.
fn scaled(number: &str, nanos: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total = whole.parse::<u64>().ok()?.checked_mul(nanos)?;
    let mut place = nanos;
    for digit in fraction.chars() {
        place /= 10;
        total = total.checked_add(u64::from(digit.to_digit(10)?) * place)?;
    }
    Some(total)
}

impl Sum for Seconds {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        Self(times.fold(Duration::ZERO, |sum, time| sum.saturating_add(time.0)))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounds first, so that 59.97 s is 60.0 s in both formats.
        let tenths = (self.0.as_millis() + 50) / 100;
        match tenths {
            0..600 => write!(f, "{}.{} s", tenths / 10, tenths % 10),
            _ => write!(f, "{} min {} s", tenths / 600, tenths % 600 / 10),
        }
    }
}
