//! Answers to questions with a checkable result: found in a text, and compared.

use std::sync::LazyLock;

use regex::Regex;

use super::expression::{NUM_PLACES, values};

/// Whether the text of a completion gives the answer of a solution; `None` where the solution is empty.
///
/// Equal are numbers in any notation ([`values`]), a percentage and either of its numbers, lists in their order, sets in
/// any order, and other texts without regard to case.
pub(super) fn is_correct(completion: &str, solution: &str) -> Option<bool> {
    let gold = solution_in(solution);
    if gold.trim().is_empty() {
        return None;
    }
    Some(answer_in(completion).is_some_and(|found| Answer::read(&found).equals(&Answer::read(&gold))))
}

/// What a solution says its result is: after `####` (GSM8K), in `\boxed{}`, or all of it.
fn solution_in(text: &str) -> String {
    after_hashes(text).or_else(|| boxed(text)).unwrap_or_else(|| text.to_owned())
}

/// Longest text that is taken for an answer as it stands.
const SHORT: usize = 80;

/// The answer that a completion gives: what stands in the last `\boxed{}`; or else after the last `####`; in
/// `<answer>` tags; after "answer is" or "answer:"; in the last formula; the last number; or all of a short text.
fn answer_in(text: &str) -> Option<String> {
    boxed(text)
        .or_else(|| after_hashes(text))
        .or_else(|| tagged(text))
        .or_else(|| announced(text))
        .or_else(|| last_match(&FORMULA, text))
        .or_else(|| NUMBER.find_iter(text).last().map(|number| number.as_str().to_owned()))
        .or_else(|| (text.chars().count() <= SHORT && !text.trim().is_empty()).then(|| text.trim().to_owned()))
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant")
}

static TAGGED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)<answer>(.*?)</answer>"));
static ANNOUNCED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\banswer\s*(?:is\b|:|=)\s*:?\s*([^\n]+)"));
static FORMULA: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?s)\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"));
/// A number as people write it: sign, currency, thousands, decimals, a fraction's other half, percent.
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?(?:\s?\\?%)?|[-−]?\.\d+"));

/// The last group of the last match.
fn last_match(pattern: &Regex, text: &str) -> Option<String> {
    let found = pattern.captures_iter(text).last()?;
    found.iter().skip(1).flatten().last().map(|group| group.as_str().to_owned())
}

fn after_hashes(text: &str) -> Option<String> {
    let rest = &text[text.rfind("####")? + 4..];
    let line = rest.trim_start().lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn tagged(text: &str) -> Option<String> {
    last_match(&TAGGED, text)
}

/// What follows "the answer is": a formula, the first number, or the sentence.
fn announced(text: &str) -> Option<String> {
    let rest = last_match(&ANNOUNCED, text)?;
    if let Some(formula) = FORMULA.captures(&rest)
        && formula.get(0).is_some_and(|whole| whole.start() == 0)
    {
        return formula.iter().skip(1).flatten().last().map(|group| group.as_str().to_owned());
    }
    let sentence = rest.split(". ").next().unwrap_or(&rest).trim().trim_end_matches('.');
    match Answer::read(sentence) {
        Answer::Text(_) => NUMBER.find(sentence).map(|number| number.as_str()).or(Some(sentence)).map(str::to_owned),
        _ => Some(sentence.to_owned()),
    }
}

/// What stands in the last `\boxed{}`.
fn boxed(text: &str) -> Option<String> {
    let start = ["\\boxed", "\\fbox"].iter().filter_map(|command| Some(text.rfind(command)? + command.len())).max()?;
    let rest = text[start..].trim_start();
    if !rest.starts_with('{') {
        return rest.split_whitespace().next().map(str::to_owned);
    }
    let mut depth = 0usize;
    for (at, char) in rest.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(rest[1..at].to_owned());
        }
    }
    None // never closed: cut off
}

/// An answer as it is compared.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Number {
        values: [f64; NUM_PLACES],
        percent: bool,
    },
    /// Of several parts; those of a set have no order.
    Several {
        parts: Vec<Answer>,
        ordered: bool,
    },
    Text(String),
}

/// What does not change an answer, and what it is replaced by, in this order.
const NOTATION: [(&str, &str); 25] = [
    ("{,}", ","),
    ("\\!", ""),
    ("\\,", ""),
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("~", " "),
    ("\\left", ""),
    ("\\right", ""),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("^\\circ", ""),
    ("^{\\circ}", ""),
    ("°", ""),
    ("\\$", ""),
    ("$", ""),
    ("€", ""),
    ("£", ""),
    ("\\%", "%"),
    ("\\(", ""),
    ("\\)", ""),
    ("\\[", ""),
    ("\\]", ""),
    ("−", "-"),
];

static UNIT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}(?:\^\{?-?\d\}?)?"));
static TRAILING_UNIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(.*[\d)}])\s*[A-Za-z]{2,}[A-Za-z .]*$"));

impl Answer {
    fn read(text: &str) -> Self {
        let mut text = text.trim().trim_end_matches('.').to_owned();
        for (notation, plain) in NOTATION {
            text = text.replace(notation, plain);
        }
        let without_units = UNIT.replace_all(&text, "");
        let text = if without_units.trim().is_empty() { UNIT.replace_all(&text, "$1") } else { without_units };
        // `x = 5` and `2 + 3 = 5` say 5.
        let text = text.rsplit('=').next().unwrap_or_default().trim();
        let number = |text: &str| {
            // The letter of a choice, not a variable.
            if text.len() == 1 && text.starts_with(|char: char| char.is_ascii_alphabetic()) {
                return None;
            }
            let (bare, percent) = text.trim().strip_suffix('%').map_or((text, false), |bare| (bare, true));
            values(bare).map(|values| Self::Number { values, percent })
        };
        let unitless = TRAILING_UNIT.captures(text).and_then(|found| found.get(1)).map(|value| value.as_str());
        number(text)
            .or_else(|| Self::several(text))
            .or_else(|| unitless.and_then(number))
            .unwrap_or_else(|| Self::Text(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()))
    }

    /// Parts between commas, in brackets or not.
    fn several(text: &str) -> Option<Self> {
        let inside = |open: &str, close: &str| text.strip_prefix(open)?.strip_suffix(close);
        let (inner, ordered) = match (inside("(", ")").or_else(|| inside("[", "]")), inside("\\{", "\\}")) {
            (Some(inner), _) => (inner, true),
            (None, Some(inner)) => (inner, false),
            (None, None) => (text, false),
        };
        let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
        for (at, char) in inner.char_indices() {
            match char {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&inner[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&inner[start..]);
        let numbers =
            parts.iter().map(|part| values(part.trim()).map(|values| Self::Number { values, percent: false }));
        let parts: Vec<Self> = numbers.collect::<Option<_>>()?;
        (parts.len() > 1).then_some(Self::Several { parts, ordered })
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number { values: a, percent }, Self::Number { values: b, percent: other }) => {
                let alike = |scale: f64| a.iter().zip(b).all(|(a, b)| close(a * scale, *b));
                // 50% may be meant as 50 or as 0.5.
                alike(1.0) || (*percent && !other && alike(0.01)) || (*other && !percent && alike(100.0))
            }
            (Self::Several { parts: a, ordered }, Self::Several { parts: b, ordered: other }) => {
                let in_order = || a.iter().zip(b).all(|(a, b)| a.equals(b));
                let one_in_other =
                    |a: &[Self], b: &[Self]| a.iter().all(|part| b.iter().any(|other| part.equals(other)));
                let as_sets = || one_in_other(a, b) && one_in_other(b, a);
                a.len() == b.len() && if *ordered && *other { in_order() } else { as_sets() }
            }
            (Self::Text(a), Self::Text(b)) => a == b,
            _ => false,
        }
    }
}

/// Numbers that agree in six decimals, or six digits where they are smaller than 1 (math-verify rounds to six decimals).
fn close(a: f64, b: f64) -> bool {
    // 1.0e-12 of large numbers is what a product of two may be off.
    (a - b).abs() <= 2e-6 * b.abs().min(1.0) + 1e-12 * b.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(completion: &str, solution: &str, expected: impl Into<Option<bool>>) {
        assert_eq!(is_correct(completion, solution), expected.into(), "{completion:?} for {solution:?}");
    }

    #[test]
    fn numbers_in_any_notation() {
        check(r"so \boxed{\frac{1}{3}}", "1/3", true);
        check(r"\boxed{0.333333}", r"\frac13", true);
        check(r"\boxed{0.33}", r"\frac13", false);
        check(r"\boxed{1{,}234}", "1234", true);
        check(r"\boxed{\$1,234.50}", "1234.5", true);
        check(r"\boxed{-3}", "−3", true);
        check(r"\boxed{3}", "-3", false);
        check(r"\boxed{50\%}", "0.5", true);
        check(r"\boxed{50\%}", "50", true);
        check(r"\boxed{0.5}", "50%", true);
        check(r"\boxed{12\text{ cm}^2}", "12", true);
        check(r"\boxed{12\text{ cm}}", "12", true);
        check(r"\boxed{90^\circ}", "90", true);
        check(r"\boxed{x = 5}", "5", true);
        check(r"\boxed{(x+1)^2}", "x^2+2x+1", true);
        check(r"\boxed{12345678}", "12345679", false);
        check(r"\boxed{1\frac{1}{2}}", "1.5", true);
    }

    #[test]
    fn gsm8k_on_either_side() {
        let solution = "He had 5 * 2 = <<5*2=10>>10.\n#### 1,234";
        check("#### 1234", solution, true);
        check("Some steps with 7.\n#### $1,234\n", solution, true);
        check("#### 1,235", solution, false);
        check("So the total is 1,234.", solution, true);
        check("####", solution, false);
    }

    #[test]
    fn answers_are_found_where_people_put_them() {
        check("First 3, then 4. The answer is 18 dollars. Not 20", "18", true);
        check("The final answer is: $\\frac{3}{4}$. I hope it is correct.", "0.75", true);
        check("<answer>\n42\n</answer>", "42", true);
        check("answer: B", "b", true);
        check("B", "B", true);
        check(r"\boxed{3} no, \boxed{4}", "4", true);
        check(r"the answer is 3, or \boxed{4", "3", true);
        check("", "4", false);
        check("no idea", "4", false);
    }

    #[test]
    fn lists_have_an_order_and_sets_have_none() {
        check(r"\boxed{(1, 2)}", "(1,2)", true);
        check(r"\boxed{(2, 1)}", "(1,2)", false);
        check(r"\boxed{\{2, 1\}}", r"\{1,2\}", true);
        check(r"\boxed{2, 1}", "1, 2", true);
        check(r"\boxed{1}", "1, 2", false);
    }

    #[test]
    fn an_empty_solution_judges_nothing() {
        check(r"\boxed{1}", "", None);
        check(r"\boxed{1}", r"\boxed{}", None);
    }
}
