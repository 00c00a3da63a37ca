//! What one thing took each time that it was done, and percentiles of that.

use std::time::Duration;

/// Times in their order, the shortest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// The shortest that at least `percent` of all do not exceed (nearest rank); `None` if
    /// there are none.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// The same in microseconds; not a number if there are none.
    pub(crate) fn percentile_us(&self, percent: usize) -> f64 {
        self.percentile_ms(percent) * 1e3
    }

    /// The same in milliseconds.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        self.percentile(percent).map_or(f64::NAN, milliseconds)
    }

    /// Each of them, in milliseconds.
    pub(crate) fn each_ms(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied().map(milliseconds)
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

/// A time in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Times = (1..=100).rev().map(Duration::from_micros).collect();
        let at = |percent| times.percentile(percent).map(|time| time.as_micros());
        assert_eq!([at(0), at(1), at(50), at(99), at(100)], [1, 1, 50, 99, 100].map(Some));
        assert_eq!(times.count(), 100);
        let one: Times = [Duration::from_micros(7)].into_iter().collect();
        assert_eq!([1, 50, 99].map(|it| one.percentile(it)), [Some(Duration::from_micros(7)); 3]);
    }

    #[test]
    fn of_nothing_there_is_no_percentile() {
        let none = Times::default();
        assert_eq!(none.percentile(50), None);
        assert!(none.percentile_ms(50).is_nan() && none.percentile_us(99).is_nan());
    }

    #[test]
    fn units_are_told_apart() {
        let times: Times = [Duration::from_micros(1500)].into_iter().collect();
        assert!((times.percentile_us(50) - 1500.0).abs() < 1e-9);
        assert!((times.percentile_ms(50) - 1.5).abs() < 1e-9);
        assert!(times.each_ms().all(|ms| (ms - 1.5).abs() < 1e-9));
    }
}
