//! Jinja2 expressions to MiniJinja expressions that mean the same.
//!
//! Where the two engines agree the expression is passed on. Where they don't, a call of one of our functions takes
//! its place (see [`operators`](crate::python::operators)): attribute access that meets Python's methods, subscripts,
//! slices, `in`, `<`, `~`, and `+` on lists. The grammar is that of `jinja2/parser.py` 3.1.6.

use std::fmt::Write;

use super::{SyntaxError, cursor::Parser, lexer::Token};
use crate::python::is_method_name;

/// Brackets and operators within each other, before a template is refused: a real one needs less than 20.
const MAX_DEPTH: usize = 60;

/// Links in a chain such as `a.b.c` or `a + b + c`, before a template is refused. MiniJinja compiles each into the one
/// before.
const MAX_CHAIN: usize = 200;

/// A translated expression.
#[derive(Debug, Clone)]
pub(super) struct Translated {
    pub(super) code: String,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Str(String),
    Number,
    Name(String),
    List,
    /// `f(…)`, which a call block may wrap.
    Call,
    Other,
}

impl Translated {
    fn other(code: String) -> Self {
        Self { code, kind: Kind::Other }
    }
}

type Parsed<T = Translated> = Result<T, SyntaxError>;

impl Parser<'_> {
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("expressions nest more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Fails where a chain has too many links.
    fn check_chain(&self, links: usize) -> Parsed<()> {
        if links > MAX_CHAIN {
            return Err(self.error(format!("a chain of operators has more than {MAX_CHAIN} links")));
        }
        Ok(())
    }

    pub(super) fn expression(&mut self) -> Parsed {
        self.nested(Self::conditional)
    }

    /// An expression without a trailing `if`, which belongs to the statement.
    pub(super) fn without_condition(&mut self) -> Parsed {
        self.nested(Self::or)
    }

    /// Expressions with commas between them: a tuple, even of one.
    pub(super) fn tuple(&mut self, end: &[&str], parse: fn(&mut Self) -> Parsed) -> Parsed {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let at_end = self.at_end() || self.is_op(")") || end.iter().any(|name| self.is_name(name));
            if at_end && (is_tuple || items.is_empty()) {
                break;
            }
            items.push(parse(self)?);
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            return items.pop().ok_or_else(|| self.unexpected("an expression"));
        }
        Ok(Translated::other(tuple_code(&items)))
    }

    fn conditional(&mut self) -> Parsed {
        let mut value = self.or()?;
        let mut links = 0;
        while self.skip_name("if") {
            links += 1;
            self.check_chain(links)?;
            let test = self.or()?;
            let code = if self.skip_name("else") {
                let other = self.nested(Self::conditional)?;
                format!("({} if {} else {})", value.code, test.code, other.code)
            } else {
                format!("({} if {})", value.code, test.code)
            };
            value = Translated::other(code);
        }
        Ok(value)
    }

    fn or(&mut self) -> Parsed {
        self.chain("or", Self::and)
    }

    fn and(&mut self) -> Parsed {
        self.chain("and", Self::not)
    }

    fn chain(&mut self, word: &str, operand: fn(&mut Self) -> Parsed) -> Parsed {
        let first = operand(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut code = format!("({}", first.code);
        let mut links = 0;
        while self.skip_name(word) {
            links += 1;
            self.check_chain(links)?;
            let _ = write!(code, " {word} {}", operand(self)?.code);
        }
        code.push(')');
        Ok(Translated::other(code))
    }

    fn not(&mut self) -> Parsed {
        if self.skip_name("not") {
            let value = self.nested(Self::not)?;
            return Ok(Translated::other(format!("(not {})", value.code)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed {
        let mut left = self.sum()?;
        let mut parts = Vec::new();
        loop {
            let operator = match self.peek() {
                Some(Token::Op(operator @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => *operator,
                Some(Token::Name(name)) if name == "in" => "in",
                Some(Token::Name(name)) if name == "not" => match self.peek_second() {
                    Some(Token::Name(name)) if name == "in" => {
                        self.position += 1;
                        "not in"
                    }
                    _ => break,
                },
                _ => break,
            };
            self.position += 1;
            self.check_chain(parts.len())?;
            let right = self.sum()?;
            let (a, b) = (&left.code, &right.code);
            parts.push(match operator {
                "==" | "!=" => format!("({a} {operator} {b})"),
                "<" => format!("__lt({a}, {b})"),
                "<=" => format!("__le({a}, {b})"),
                ">" => format!("__lt({b}, {a})"),
                ">=" => format!("__le({b}, {a})"),
                // A list written out can hold anything, so nothing can go wrong.
                "in" if right.kind == Kind::List => format!("({a} in {b})"),
                "in" => format!("__in({a}, {b})"),
                _ if right.kind == Kind::List => format!("(not ({a} in {b}))"),
                _ => format!("(not __in({a}, {b}))"),
            });
            left = right;
        }
        Ok(match parts.len() {
            0 => left,
            1 => Translated::other(parts.remove(0)),
            _ => Translated::other(format!("({})", parts.join(" and "))),
        })
    }

    fn sum(&mut self) -> Parsed {
        let first = self.concatenation()?;
        let mut terms = vec![("", first)];
        while let Some(Token::Op(operator @ ("+" | "-"))) = self.peek() {
            self.position += 1;
            self.check_chain(terms.len())?;
            terms.push((operator, self.concatenation()?));
        }
        if terms.len() == 1 {
            return Ok(terms.remove(0).1);
        }
        // A number in the sum leaves only sums on which the engines agree.
        let is_plain = terms.iter().any(|(_, term)| term.kind == Kind::Number);
        let mut code = String::new();
        for (operator, term) in terms {
            match operator {
                "" => code = term.code,
                "+" if !is_plain => code = format!("__add({code}, {})", term.code),
                _ if is_plain => code = format!("{code} {operator} {}", term.code),
                _ => code = format!("({code} {operator} {})", term.code),
            }
        }
        Ok(Translated::other(if is_plain { format!("({code})") } else { code }))
    }

    fn concatenation(&mut self) -> Parsed {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut code = format!("__concat({}", first.code);
        while self.skip_op("~") {
            let _ = write!(code, ", {}", self.product()?.code);
        }
        code.push(')');
        Ok(Translated::other(code))
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.power()?;
        let mut links = 0;
        while let Some(Token::Op(operator @ ("*" | "/" | "//" | "%"))) = self.peek() {
            self.position += 1;
            links += 1;
            self.check_chain(links)?;
            let right = self.power()?;
            let (a, b) = (&left.code, &right.code);
            left = Translated::other(match *operator {
                "*" => format!("__mul({a}, {b})"),
                "/" => format!("__div({a}, {b})"),
                "%" => format!("__mod({a}, {b})"),
                _ => format!("({a} {operator} {b})"),
            });
        }
        Ok(left)
    }

    fn power(&mut self) -> Parsed {
        let mut left = self.unary(true)?;
        let mut links = 0;
        while self.skip_op("**") {
            links += 1;
            self.check_chain(links)?;
            let right = self.unary(true)?;
            left = Translated::other(format!("__pow({}, {})", left.code, right.code));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Parsed {
        let sign = [("-", "__neg"), ("+", "__pos")].into_iter().find(|(sign, _)| self.is_op(sign));
        let value = if let Some((_, code)) = sign {
            self.position += 1;
            let value = self.nested(|parser| parser.unary(false))?;
            match value.kind {
                Kind::Number if code == "__neg" => {
                    Translated { code: format!("(-{})", value.code), kind: Kind::Number }
                }
                Kind::Number => value,
                _ => Translated::other(format!("{code}({})", value.code)),
            }
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filter { self.filters(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Parsed {
        let token = self.peek().ok_or_else(|| self.unexpected("an expression"))?;
        self.position += 1;
        Ok(match token {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => Translated::other("true".to_owned()),
                "false" | "False" => Translated::other("false".to_owned()),
                "none" | "None" => Translated::other("none".to_owned()),
                _ => Translated { code: name.clone(), kind: Kind::Name(name.clone()) },
            },
            Token::Str(text) => {
                let mut text = text.clone();
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.position += 1;
                }
                Translated { code: string_code(&text), kind: Kind::Str(text) }
            }
            Token::Int(digits) => Translated { code: digits.clone(), kind: Kind::Number },
            Token::Float(value) if value.is_finite() => Translated { code: format!("{value:?}"), kind: Kind::Number },
            Token::Float(_) => Translated { code: "__infinity".to_owned(), kind: Kind::Number },
            Token::Op("(") => {
                if self.skip_op(")") {
                    return Ok(Translated::other("()".to_owned()));
                }
                let inner = self.nested(|parser| parser.tuple(&[], Self::expression))?;
                self.expect_op(")")?;
                inner
            }
            Token::Op("[") => {
                let items = self.sequence("]", Self::expression)?;
                let items: Vec<String> = items.into_iter().map(|item| item.code).collect();
                Translated { code: format!("[{}]", items.join(", ")), kind: Kind::List }
            }
            Token::Op("{") => {
                let pairs = self.sequence("}", |parser| {
                    let key = parser.expression()?;
                    parser.expect_op(":")?;
                    // Python has no lists and dicts as keys.
                    let key = match key.kind {
                        Kind::Str(_) | Kind::Number => key.code,
                        _ => format!("__key({})", key.code),
                    };
                    Ok(Translated::other(format!("{key}: {}", parser.expression()?.code)))
                })?;
                let pairs: Vec<String> = pairs.into_iter().map(|pair| pair.code).collect();
                Translated::other(format!("{{{}}}", pairs.join(", ")))
            }
            Token::Op(_) => {
                self.position -= 1;
                return Err(self.unexpected("an expression"));
            }
        })
    }

    /// Items with commas between them up to `end`; a comma may follow the last.
    fn sequence(&mut self, end: &str, item: impl Fn(&mut Self) -> Parsed) -> Parsed<Vec<Translated>> {
        let mut items = Vec::new();
        while !self.skip_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.skip_op(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn postfix(&mut self, mut value: Translated) -> Parsed {
        for links in 0.. {
            self.check_chain(links)?;
            if self.skip_op(".") {
                value = self.attribute(&value)?;
            } else if self.skip_op("[") {
                value = self.subscript(&value)?;
            } else if self.is_op("(") {
                value = self.call(&value)?;
            } else {
                break;
            }
        }
        Ok(value)
    }

    fn attribute(&mut self, value: &Translated) -> Parsed {
        let code = &value.code;
        match self.peek() {
            Some(Token::Int(index)) => {
                self.position += 1;
                Ok(Translated::other(format!("__item({code}, {index})")))
            }
            Some(Token::Name(name)) => {
                self.position += 1;
                if self.is_op("(") {
                    return Ok(Translated::other(format!("{}.{name}", operand(value))));
                }
                // Python looks for a method before it looks for a key; `loop.index` is neither.
                let is_loop = value.kind == Kind::Name("loop".to_owned());
                Ok(Translated::other(if is_method_name(name) && !is_loop {
                    format!("__attr({code}, \"{name}\")")
                } else {
                    format!("{}.{name}", operand(value))
                }))
            }
            _ => Err(self.unexpected("a name or a number")),
        }
    }

    fn subscript(&mut self, value: &Translated) -> Parsed {
        let mut items = Vec::new();
        let mut slice = None;
        while !self.skip_op("]") {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            let start = if self.is_op(":") { None } else { Some(self.expression()?) };
            if self.skip_op(":") {
                slice = Some(self.slice(start)?);
                items.push(Translated::other("none".to_owned()));
            } else if let Some(start) = start {
                items.push(start);
            }
        }
        let code = &value.code;
        if let Some(slice) = slice {
            if items.len() > 1 {
                return Err(self.error("a slice has only one dimension"));
            }
            return Ok(Translated::other(format!("__slice({code}, {slice})")));
        }
        Ok(Translated::other(match items.as_slice() {
            [] => return Err(self.error("a subscript is empty")),
            [Translated { kind: Kind::Str(key), code: key_code }] if !is_method_name(key) => {
                format!("{}[{key_code}]", operand(value))
            }
            [item] => format!("__item({code}, {})", item.code),
            items => format!("__item({code}, {})", tuple_code(items)),
        }))
    }

    fn slice(&mut self, start: Option<Translated>) -> Parsed<String> {
        let bound = |parser: &mut Self| {
            let ends = parser.is_op(":") || parser.is_op("]") || parser.is_op(",");
            if ends { Ok(None) } else { parser.expression().map(Some) }
        };
        let stop = bound(self)?;
        let step = if self.skip_op(":") { bound(self)? } else { None };
        let code = |bound: Option<Translated>| bound.map_or_else(|| "none".to_owned(), |bound| bound.code);
        Ok(format!("{}, {}, {}", code(start), code(stop), code(step)))
    }

    fn call(&mut self, value: &Translated) -> Parsed {
        let arguments = self.arguments()?;
        // A recursive loop is called with what it goes on with.
        let code = if value.kind == Kind::Name("loop".to_owned()) {
            format!("loop(__iter({arguments}))")
        } else {
            format!("{}({arguments})", operand(value))
        };
        Ok(Translated { code, kind: Kind::Call })
    }

    fn arguments(&mut self) -> Parsed<String> {
        self.expect_op("(")?;
        let arguments = self.sequence(")", |parser| {
            if parser.skip_op("**") {
                return Ok(Translated::other(format!("**{}", parser.expression()?.code)));
            }
            if parser.skip_op("*") {
                return Ok(Translated::other(format!("*{}", parser.expression()?.code)));
            }
            if let (Some(Token::Name(name)), Some(Token::Op("="))) = (parser.peek(), parser.peek_second()) {
                parser.position += 2;
                return Ok(Translated::other(format!("{name}={}", parser.expression()?.code)));
            }
            parser.expression()
        })?;
        let arguments: Vec<String> = arguments.into_iter().map(|argument| argument.code).collect();
        Ok(arguments.join(", "))
    }

    fn filters(&mut self, mut value: Translated) -> Parsed {
        for links in 0.. {
            self.check_chain(links)?;
            if self.skip_op("|") {
                let filter = self.filter()?;
                value = Translated::other(format!("({}|{filter})", value.code));
            } else if self.skip_name("is") {
                value = self.test(&value)?;
            } else if self.is_op("(") {
                value = self.call(&value)?;
            } else {
                break;
            }
        }
        Ok(value)
    }

    /// `name`, `name.name` or `name(…)`, after a `|`.
    pub(super) fn filter(&mut self) -> Parsed<String> {
        let mut code = self.dotted_name()?;
        if self.is_op("(") {
            let arguments = self.arguments()?;
            let _ = write!(code, "({arguments})");
        }
        Ok(code)
    }

    fn dotted_name(&mut self) -> Parsed<String> {
        let mut name = self.expect_name()?.to_owned();
        while self.skip_op(".") {
            name.push('.');
            name.push_str(self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, value: &Translated) -> Parsed {
        let negated = self.skip_name("not");
        let mut code = format!("{} is {}", operand(value), self.dotted_name()?);
        let has_operand = match self.peek() {
            Some(Token::Op("(")) => {
                let arguments = self.arguments()?;
                let _ = write!(code, "({arguments})");
                false
            }
            Some(Token::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and" | "is"),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{")) => true,
            _ => false,
        };
        if self.is_name("is") {
            return Err(self.error("tests can't be chained with `is`"));
        }
        if has_operand {
            let argument = self.primary()?;
            let argument = self.postfix(argument)?;
            let _ = write!(code, "({})", argument.code);
        }
        Ok(Translated::other(if negated { format!("(not ({code}))") } else { format!("({code})") }))
    }
}

/// Code that `.`, `[` or `(` may follow.
fn operand(value: &Translated) -> String {
    match value.kind {
        Kind::Number => format!("({})", value.code),
        _ => value.code.clone(),
    }
}

fn tuple_code(items: &[Translated]) -> String {
    let mut code = String::from("(");
    for item in items {
        let _ = write!(code, "{}, ", item.code);
    }
    code.push(')');
    code
}

/// A string literal that MiniJinja reads back as `text`.
pub(super) fn string_code(text: &str) -> String {
    let mut code = String::with_capacity(text.len() + 2);
    code.push('"');
    for character in text.chars() {
        match character {
            '"' => code.push_str("\\\""),
            '\\' => code.push_str("\\\\"),
            '\n' => code.push_str("\\n"),
            '\r' => code.push_str("\\r"),
            '\0'..='\u{1f}' => {
                let _ = write!(code, "\\u{:04x}", u32::from(character));
            }
            _ => code.push(character),
        }
    }
    code.push('"');
    code
}
