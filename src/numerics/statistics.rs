//! Mean and standard error.

/// Returns the mean of `values`; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Returns the mean of `values` and its standard error, from the variance with n - 1; the error of one value is 0.
pub fn mean_and_stderr(values: &[f64]) -> (f64, f64) {
    let (n, mean) = (values.len().max(1) as f64, mean(values));
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp)]
    fn mean_and_error_of_few_values() {
        assert_eq!(mean_and_stderr(&[]), (0.0, 0.0));
        assert_eq!(mean_and_stderr(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_stderr(&[1.0, 3.0]), (2.0, 1.0));
    }
}
