//! Medians, spreads and percentiles.

/// The results of several runs of one thing, of which there is at least one.
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    pub(crate) fn new(mut results: Vec<f64>) -> Self {
        assert!(!results.is_empty(), "nothing was run");
        results.sort_by(f64::total_cmp);
        Self(results)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    pub(crate) fn least(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// The result that so large a part (0 to 1) of all is at most, as the nearest rank.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_results_that_occurred() {
        let runs = Runs::new((1..=100).rev().map(f64::from).collect());
        assert_eq!([runs.least(), runs.median(), runs.percentile(0.99), runs.most()], [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(Runs::new(vec![7.0]).percentile(0.0), 7.0);
        assert_eq!(Runs::new(vec![3.0, 1.0, 2.0]).median(), 2.0);
    }
}
