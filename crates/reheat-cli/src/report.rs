//! What became of a dataset's rows, for a person.

use std::path::Path;

use reheat_data::Report;

use crate::progress::thousands;

/// Skipped rows that are shown one by one.
const SHOWN: usize = 3;

/// Says on stderr what was read, left out, cut and packed.
pub(crate) fn print(report: &Report, rejected: Option<&Path>) {
    for line in lines(report, rejected) {
        eprintln!("{line}");
    }
}

/// Says on stderr what was read, converted and left out.
pub(crate) fn print_conversion(report: &Report, rejected: Option<&Path>) {
    let read = format!("{} read, {} written", counted(report.rows, "row"), number(report.examples));
    for line in told(report, read, rejected) {
        eprintln!("{line}");
    }
}

fn lines(report: &Report, rejected: Option<&Path>) -> Vec<String> {
    let mut read = format!(
        "{} read: {}, {}",
        counted(report.rows, "row"),
        counted(report.examples, "example"),
        counted(report.tokens, "token")
    );
    // Prompts are only read; what is trained comes after them.
    if report.trained_tokens > 0 {
        read = format!("{read}, {} of them trained", number(report.trained_tokens));
    }
    told(report, read, rejected)
}

fn told(report: &Report, read: String, rejected: Option<&Path>) -> Vec<String> {
    let mut lines: Vec<String> = report
        .files
        .iter()
        .map(|(file, detection)| format!("{file}: {} rows, since {}", detection.format, detection.reason))
        .collect();
    let mut say = |count: u64, what: String| {
        if count > 0 {
            lines.push(what);
        }
    };
    say(1, read);
    say(report.filtered, format!("{} left out by the filter", counted(report.filtered, "row")));
    say(report.not_sampled, format!("{} not drawn", counted(report.not_sampled, "row")));
    for (reason, &count) in &report.skipped {
        say(count, format!("{} left out: {reason}", counted(count, "row")));
    }
    for skipped in report.skipped_rows.iter().take(SHOWN) {
        say(1, format!("  {}: {}", skipped.row, skipped.problem));
    }
    if let (Some(path), false) = (rejected, report.skipped_rows.is_empty()) {
        say(1, format!("  all of them, with the reason: {}", path.display()));
    }
    let cut = format!("{} cut, {} lost", counted(report.truncated, "example"), counted(report.tokens_cut, "token"));
    say(report.truncated, cut);
    let diverging = counted(report.diverging_prompts, "prompt");
    say(report.diverging_prompts, format!("{diverging} alone end in other tokens than before their answer"));
    let hidden = counted(report.hidden_tools, "example");
    say(report.hidden_tools, format!("{hidden} with tools or calls of tools that the chat template does not print"));
    if let Some(packing) = &report.packing {
        let rows = format!("packed into {}, {:.1}% filled", counted(packing.rows, "row"), 100.0 * packing.filled);
        say(1, rows);
        say(packing.split, format!("{} split", counted(packing.split, "example")));
        let nothing = report.without_trained_token;
        say(nothing, format!("{} without a token to learn among them", counted(nothing, "example")));
    }
    lines
}

/// `1 row`, `1,234 rows`
pub(crate) fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", number(count), if count == 1 { "" } else { "s" })
}

/// `12,345`
pub(crate) fn number(count: u64) -> String {
    if count < 1000 { count.to_string() } else { thousands(count as f64) }
}
