//! What several rounds of one measurement come to. Knows no unit.

/// Fewer rounds than this give no median worth the name.
pub(super) const ROUNDS: usize = 7;

/// The rounds of one measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a round.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub(super) fn rounds(&self) -> usize {
        self.0.len()
    }

    /// The middle one; the mean of the middle two where there is no middle one. Not a
    /// number if there are none.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[count / 2],
            count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        }
    }

    /// Each round with the other's round of the same time, so that whatever slowed both
    /// down is in neither result.
    pub(super) fn paired(&self, other: &Self, with: impl Fn(f64, f64) -> f64) -> Self {
        self.0.iter().zip(&other.0).map(|(one, other)| with(*one, *other)).collect()
    }

    /// The least.
    pub(super) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The greatest.
    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn median(values: &[f64]) -> f64 {
        values.iter().copied().collect::<Samples>().median()
    }

    #[test]
    fn the_median_does_not_follow_one_bad_round() {
        assert!((median(&[3.0, 1000.0, 1.0, 2.0, 2.5]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn of_an_even_number_the_median_lies_between_the_middle_two() {
        assert!((median(&[4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn no_rounds_have_no_median() {
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn rounds_are_compared_with_those_of_the_same_time() {
        let ours: Samples = [10.0, 20.0, 10.0].into_iter().collect();
        let theirs: Samples = [20.0, 40.0, 20.0].into_iter().collect();
        let ratios = ours.paired(&theirs, |ours, theirs| ours / theirs);
        assert!((ratios.min() - 0.5).abs() < 1e-9 && (ratios.max() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_extremes_are_kept() {
        let samples: Samples = [2.0, 7.0, 1.0].into_iter().collect();
        assert!((samples.min() - 1.0).abs() < f64::EPSILON);
        assert!((samples.max() - 7.0).abs() < f64::EPSILON);
        assert_eq!(samples.rounds(), 3);
    }
}
