//! The spread of repeated measurements.

use serde::Serialize;

/// A median with its minimum and maximum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median. For an even count, the mean of the two in the middle.
    pub median: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    /// Returns `None` for no measurements.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }

    /// Formats as `median (min–max)` with `show`, or as the median alone if all look the same.
    pub fn show(self, show: impl Fn(f64) -> String) -> String {
        let (median, min, max) = (show(self.median), show(self.min), show(self.max));
        if min == max {
            median
        } else {
            format!("{median} ({min}–{max})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_of_the_sorted_values() {
        let median =
            |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn spread_without_visible_difference_is_one_number() {
        let show = |value: f64| format!("{value:.0}");
        let shown = |values: [f64; 3]| Spread::of(values).unwrap().show(show);
        assert_eq!(shown([1.0, 2.0, 3.0]), "2 (1–3)");
        assert_eq!(shown([2.0, 2.1, 1.9]), "2");
    }
}
