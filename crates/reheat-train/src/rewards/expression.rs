//! Values of mathematical expressions, in LaTeX or as people type them.
//!
//! Numbers, fractions, roots, powers, π and single-letter variables; everything else is no expression. Two expressions
//! are taken for equal where their values agree at a few places, which a symbolic comparison would need a computer
//! algebra system for.

/// Places at which variables are given numbers.
pub(super) const NUM_PLACES: usize = 3;

/// Deepest nesting of brackets: what a model wrote is not to exhaust the stack.
const MAX_DEPTH: usize = 40;

/// Values of `text` at every place, all alike where it has no variable; `None` where it is no expression or not finite.
pub(super) fn values(text: &str) -> Option<[f64; NUM_PLACES]> {
    let chars: Vec<char> = text.chars().collect();
    let mut values = [0.0; NUM_PLACES];
    for (place, value) in values.iter_mut().enumerate() {
        let mut parser = Parser { chars: &chars, at: 0, place, depth: 0 };
        *value = parser.sum()?;
        parser.skip_spaces();
        if parser.at < chars.len() || !value.is_finite() {
            return None;
        }
    }
    Some(values)
}

/// What a variable is at a place: unlike any other, and no round number.
fn variable(letter: char, place: usize) -> f64 {
    // Multiples of the golden ratio fall on no two letters alike.
    1.0 + (f64::from(u32::from(letter)) * (place + 1) as f64 * 0.618_033_988_749_895).fract()
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
    place: usize,
    depth: usize,
}

/// A factor, and whether it is a whole number or a fraction of digits: `1\frac{1}{2}` is a sum.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Fraction,
    Other,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    /// Takes `text` if it comes next.
    fn take(&mut self, text: &str) -> bool {
        self.skip_spaces();
        let len = text.chars().count();
        let found = self.chars[self.at..].iter().take(len).copied().eq(text.chars());
        // A command ends where its letters do: `\pi` is not the start of `\pit`.
        let ends = !text.starts_with('\\')
            || !text.ends_with(char::is_alphabetic)
            || !self.chars.get(self.at + len).is_some_and(|next| next.is_alphabetic());
        if found && ends {
            self.at += len;
        }
        found && ends
    }

    fn sum(&mut self) -> Option<f64> {
        let mut sum = self.product()?;
        loop {
            if self.take("+") {
                sum += self.product()?;
            } else if self.take("-") {
                sum -= self.product()?;
            } else {
                return Some(sum);
            }
        }
    }

    fn product(&mut self) -> Option<f64> {
        if self.take("-") {
            return Some(-self.product_of_signless()?);
        }
        self.take("+");
        self.product_of_signless()
    }

    fn product_of_signless(&mut self) -> Option<f64> {
        let (mut product, mut kind) = self.power()?;
        loop {
            if self.take("*") || self.take("\\cdot") || self.take("\\times") || self.take("·") || self.take("×") {
                product *= self.signed_power()?;
            } else if self.take("/") || self.take("\\div") || self.take("÷") {
                product /= self.signed_power()?;
            } else if self.starts_factor() {
                let (factor, next) = self.power()?;
                let is_mixed = kind == Kind::Whole && next == Kind::Fraction;
                product = if is_mixed { product + factor } else { product * factor };
            } else {
                return Some(product);
            }
            kind = Kind::Other;
        }
    }

    fn signed_power(&mut self) -> Option<f64> {
        let sign = if self.take("-") { -1.0 } else { 1.0 };
        Some(sign * self.power()?.0)
    }

    /// Whether what comes next multiplies without a sign: `2\pi`, `3(4)`, `2x`, but not `2 3`.
    fn starts_factor(&mut self) -> bool {
        self.skip_spaces();
        match self.peek() {
            Some('\\') => ["\\frac", "\\sqrt", "\\pi"]
                .iter()
                .any(|command| self.chars[self.at..].iter().take(command.len()).copied().eq(command.chars())),
            Some(next) => next == '(' || next == '√' || next == 'π' || next.is_ascii_alphabetic(),
            None => false,
        }
    }

    fn power(&mut self) -> Option<(f64, Kind)> {
        let (base, kind) = self.atom()?;
        if !(self.take("^") || self.take("**")) {
            return Some((base, kind));
        }
        let sign = if self.take("-") { -1.0 } else { 1.0 };
        Some((base.powf(sign * self.argument()?), Kind::Other))
    }

    fn atom(&mut self) -> Option<(f64, Kind)> {
        self.depth += 1;
        let atom = if self.depth > MAX_DEPTH { None } else { self.shallow_atom() };
        self.depth -= 1;
        atom
    }

    fn shallow_atom(&mut self) -> Option<(f64, Kind)> {
        self.skip_spaces();
        let next = self.peek()?;
        if next.is_ascii_digit() || next == '.' {
            return self.number();
        }
        if self.take("(") {
            return self.closed(")");
        }
        if self.take("{") {
            return self.closed("}");
        }
        if self.take("\\frac") {
            let start = self.at;
            let fraction = self.argument()? / self.argument()?;
            let digits = self.chars[start..self.at].iter().all(|char| char.is_ascii_digit() || "{} ".contains(*char));
            return Some((fraction, if digits { Kind::Fraction } else { Kind::Other }));
        }
        if self.take("\\sqrt") || self.take("sqrt") || self.take("√") {
            let root = if self.take("[") { self.closed("]")?.0 } else { 2.0 };
            return Some((self.argument()?.powf(1.0 / root), Kind::Other));
        }
        if self.take("\\pi") || self.take("π") || self.take("pi") {
            return Some((std::f64::consts::PI, Kind::Other));
        }
        if next.is_ascii_alphabetic() && !self.chars.get(self.at + 1).is_some_and(|next| next.is_alphabetic()) {
            self.at += 1;
            return Some((variable(next, self.place), Kind::Other));
        }
        None
    }

    fn closed(&mut self, bracket: &str) -> Option<(f64, Kind)> {
        let value = self.sum()?;
        self.take(bracket).then_some((value, Kind::Other))
    }

    /// What a command or an exponent takes: a group, or one digit or letter.
    fn argument(&mut self) -> Option<f64> {
        self.skip_spaces();
        match self.peek()? {
            digit if digit.is_ascii_digit() => {
                self.at += 1;
                digit.to_digit(10).map(f64::from)
            }
            _ => Some(self.atom()?.0),
        }
    }

    /// Digits with separators of thousands, a decimal point and an exponent.
    fn number(&mut self) -> Option<(f64, Kind)> {
        let start = self.at;
        let digits_from = |at: usize| self.chars[at..].iter().take_while(|char| char.is_ascii_digit()).count();
        let mut text: String = self.chars[start..start + digits_from(start)].iter().collect();
        let mut at = start + text.len();
        if (1..=3).contains(&text.len()) {
            while self.chars.get(at) == Some(&',') && digits_from(at + 1) == 3 {
                text.extend(&self.chars[at + 1..at + 4]);
                at += 4;
            }
        }
        let mut kind = Kind::Whole;
        if self.chars.get(at) == Some(&'.') {
            let decimals = digits_from(at + 1);
            if decimals == 0 && text.is_empty() {
                return None;
            }
            text.extend(&self.chars[at..at + 1 + decimals]);
            at += 1 + decimals;
            kind = Kind::Other;
        }
        if matches!(self.chars.get(at), Some('e' | 'E')) {
            let signed = usize::from(matches!(self.chars.get(at + 1), Some('+' | '-')));
            let digits = digits_from(at + 1 + signed);
            if digits > 0 {
                text.extend(&self.chars[at..at + 1 + signed + digits]);
                at += 1 + signed + digits;
                kind = Kind::Other;
            }
        }
        self.at = at;
        Some((text.parse().ok()?, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        values(text).map(|values| values[0])
    }

    #[test]
    fn expressions_have_the_value_that_is_meant() {
        let cases = [
            ("1,234.5", 1234.5),
            ("-3", -3.0),
            (r"\frac{1}{4}", 0.25),
            (r"\frac12", 0.5),
            (r"1\frac{1}{2}", 1.5),
            (r"-2\frac{1}{2}", -2.5),
            ("3/4", 0.75),
            (r"2\sqrt{4}", 4.0),
            (r"\sqrt[3]{27}", 3.0),
            ("2^{10}", 1024.0),
            ("2^-1", 0.5),
            ("2(3 + 4)", 14.0),
            ("1e3", 1000.0),
            (".5", 0.5),
            ("2 - -3 * 2", 8.0),
            (r"3 \cdot 4 \div 6", 2.0),
        ];
        for (text, expected) in cases {
            assert!(value(text).is_some_and(|value| (value - expected).abs() < 1e-12), "{text}: {:?}", value(text));
        }
        assert_eq!(value(r"2\pi"), Some(2.0 * std::f64::consts::PI));
    }

    #[test]
    fn what_is_no_expression_has_no_value() {
        for text in ["", "yes", "3 4", "1/0", "(1", "1)", r"\frac{1}", "2 +", r"\pit", "1,2", "."] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn variables_tell_expressions_apart() {
        let (this, other) = (values("x^2 + 1").unwrap(), values("1 + x*x").unwrap());
        assert!(this.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-12), "{this:?} {other:?}");
        assert_ne!(values("x"), values("y"));
        assert_ne!(values("2x"), values("x"));
    }

    #[test]
    fn deep_nesting_is_no_expression() {
        assert_eq!(value(&format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000))), None);
        assert_eq!(value(&"-".repeat(100_000)), None);
        assert_eq!(value(&"{".repeat(100_000)), None);
        assert_eq!(value(&r"\sqrt".repeat(100_000)), None);
    }
}
