//! Numbers of several contenders as a table.

use serde::Serialize;

/// Everything measured of one contender.
#[derive(Debug, Serialize)]
pub(crate) struct Contender {
    pub(crate) name: String,
    /// Tokens per second of every timed step, in the order of the run.
    pub(crate) tokens_per_second: Vec<f64>,
    /// Most resident memory over all rounds, in bytes.
    pub(crate) peak_bytes: u64,
    /// Loss of the first and of the last step: both sides must have done the same work.
    pub(crate) first_loss: f64,
    pub(crate) last_loss: f64,
}

/// What stands in a row of the table.
#[derive(Debug, Serialize, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        let bound = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { median, min: bound(sorted.first()), max: bound(sorted.last()) }
    }
}

impl Contender {
    pub(crate) fn summary(&self) -> Summary {
        Summary::of(&self.tokens_per_second)
    }
}

/// A Markdown table; speeds and memory as multiples of each rival's, a column each.
pub(crate) fn markdown(ours: &Contender, rivals: &[Contender]) -> String {
    let mut lines = vec![
        "| | tokens/s, median | min to max | peak memory | speed of Reheat | memory of Reheat | loss, first to last |"
            .to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    let base = ours.summary().median;
    for contender in std::iter::once(ours).chain(rivals) {
        let Summary { median, min, max } = contender.summary();
        let (speed, memory) = if std::ptr::eq(contender, ours) {
            ("–".to_owned(), "–".to_owned())
        } else {
            let memory = ours.peak_bytes as f64 / contender.peak_bytes as f64;
            (format!("{:.2}×", base / median), format!("{memory:.2}×"))
        };
        lines.push(format!(
            "| {} | {median:.1} | {min:.1} to {max:.1} | {:.2} GB | {speed} | {memory} | {:.4} to {:.4} |",
            contender.name,
            contender.peak_bytes as f64 / 1e9,
            contender.first_loss,
            contender.last_loss
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(name: &str, tokens_per_second: &[f64], peak_bytes: u64) -> Contender {
        let tokens_per_second = tokens_per_second.to_vec();
        Contender { name: name.into(), tokens_per_second, peak_bytes, first_loss: 12.0, last_loss: 11.5 }
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let summary = contender("x", &[4.0, 1.0, 3.0, 2.0], 0).summary();
        assert_eq!(summary, Summary { median: 2.5, min: 1.0, max: 4.0 });
    }

    #[test]
    fn ratios_are_ours_over_theirs() {
        let table =
            markdown(&contender("Reheat", &[60.0], 8_000_000_000), &[contender("TRL", &[40.0], 10_000_000_000)]);
        let last = table.lines().last().expect("three lines");
        assert_eq!(last, "| TRL | 40.0 | 40.0 to 40.0 | 10.00 GB | 1.50× | 0.80× | 12.0000 to 11.5000 |");
    }
}
