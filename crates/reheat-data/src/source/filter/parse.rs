use serde_json::{Number, Value};

use super::{Expression, Operand, Operator, Path};

/// How deep parentheses and negations may be nested.
const MAX_DEPTH: usize = 64;

/// Words that are no columns unless quoted.
const KEYWORDS: [&str; 9] = ["and", "or", "not", "in", "contains", "is", "null", "true", "false"];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// A name in double quotes, which is never a keyword.
    Name(String),
    Number(Number),
    Text(String),
    Symbol(&'static str),
}

/// Parses the whole text.
///
/// # Errors
/// What was expected, what was found, and at which character.
pub(super) fn parse(text: &str) -> Result<Expression, String> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.chars().count() + 1 };
    let expression = parser.or(0)?;
    match parser.peek() {
        None => Ok(expression),
        Some(_) => Err(parser.expected("`and`, `or` or the end")),
    }
}

/// Tokens with the 1-based character that each begins at.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>, String> {
    const SYMBOLS: [&str; 13] = ["==", "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", ".", "&&"];
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        let run = |from: usize, part: fn(char) -> bool| {
            chars[from..].iter().position(|&c| !part(c)).map_or(chars.len(), |length| from + length)
        };
        let is_number = c.is_ascii_digit() || (c == '-' && chars.get(at + 1).is_some_and(char::is_ascii_digit));
        let token = if c.is_whitespace() {
            at += 1;
            continue;
        } else if c == '\'' || c == '"' || c == '`' {
            let mut inside = String::new();
            at += 1;
            loop {
                match chars.get(at) {
                    None => return Err(format!("the quote at character {} is not closed", start + 1)),
                    Some(&quote) if quote == c && chars.get(at + 1) == Some(&c) => {
                        inside.push(c);
                        at += 2;
                    }
                    Some(&quote) if quote == c => break,
                    Some(&other) => {
                        inside.push(other);
                        at += 1;
                    }
                }
            }
            at += 1;
            if c == '\'' { Token::Text(inside) } else { Token::Name(inside) }
        } else if is_number && !matches!(found.last(), Some((Token::Symbol("."), _))) {
            at = run(at + 1, |c| c.is_ascii_alphanumeric() || c == '.');
            // An exponent has a sign of its own.
            if matches!(chars[at - 1], 'e' | 'E') && matches!(chars.get(at), Some('+' | '-')) {
                at = run(at + 1, |c| c.is_ascii_digit());
            }
            let digits: String = chars[start..at].iter().collect();
            let number = serde_json::from_str(&digits)
                .map_err(|_| format!("`{digits}` at character {} is no number", start + 1))?;
            Token::Number(number)
        } else if c.is_alphanumeric() || c == '_' {
            at = run(at, |c| c.is_alphanumeric() || c == '_');
            Token::Word(chars[start..at].iter().collect())
        } else {
            let rest: String = chars[at..chars.len().min(at + 2)].iter().collect();
            let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) else {
                return Err(format!("`{c}` at character {} is not understood", start + 1));
            };
            at += symbol.len();
            Token::Symbol(symbol)
        };
        found.push((token, start + 1));
    }
    Ok(found)
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    fn expected(&self, what: &str) -> String {
        match self.tokens.get(self.next) {
            Some((token, at)) => format!("expected {what} at character {at}, found {}", shown(token)),
            None => format!("expected {what} at character {}, found the end", self.end),
        }
    }

    /// Takes the token if it is the keyword, in any case.
    fn word(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.next += usize::from(found);
        found
    }

    fn must(&mut self, symbol: &str) -> Result<(), String> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.expected(&format!("`{symbol}`"))) }
    }

    fn or(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.and(depth)?];
        while self.word("or") {
            parts.push(self.and(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::Or(parts) })
    }

    fn and(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.negation(depth)?];
        while self.word("and") || self.symbol("&&") {
            parts.push(self.negation(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::And(parts) })
    }

    fn negation(&mut self, depth: usize) -> Result<Expression, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        if self.word("not") {
            return Ok(Expression::Not(Box::new(self.negation(depth + 1)?)));
        }
        if self.symbol("(") {
            let inside = self.or(depth + 1)?;
            self.must(")")?;
            return Ok(inside);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let left = self.operand()?;
        if self.word("is") {
            let negated = self.word("not");
            if !self.word("null") {
                return Err(self.expected("`null`"));
            }
            return Ok(negate(negated, Expression::IsNull(left)));
        }
        let negated = self.word("not");
        if self.word("in") {
            self.must("(")?;
            let mut values = vec![self.literal()?];
            while self.symbol(",") {
                values.push(self.literal()?);
            }
            self.must(")")?;
            return Ok(negate(negated, Expression::In { operand: left, values }));
        }
        if self.word("contains") {
            let value = self.literal()?;
            return Ok(negate(negated, Expression::Contains { operand: left, value }));
        }
        if negated {
            return Err(self.expected("`in` or `contains`"));
        }
        let operator = match self.peek() {
            Some(Token::Symbol("=" | "==")) => Operator::Equal,
            Some(Token::Symbol("!=" | "<>")) => Operator::NotEqual,
            Some(Token::Symbol("<")) => Operator::Less,
            Some(Token::Symbol("<=")) => Operator::LessOrEqual,
            Some(Token::Symbol(">")) => Operator::Greater,
            Some(Token::Symbol(">=")) => Operator::GreaterOrEqual,
            _ => return Err(self.expected("a comparison such as `=`, `<`, `in`, `contains` or `is null`")),
        };
        self.next += 1;
        Ok(Expression::Compare { left, operator, right: self.operand()? })
    }

    fn operand(&mut self) -> Result<Operand, String> {
        if let Some(Token::Word(word)) = self.peek()
            && word.eq_ignore_ascii_case("length")
            && matches!(self.tokens.get(self.next + 1), Some((Token::Symbol("("), _)))
        {
            self.next += 2;
            let path = self.path()?;
            self.must(")")?;
            return Ok(Operand::Length(path));
        }
        match self.peek() {
            Some(Token::Number(_) | Token::Text(_)) => self.literal().map(Operand::Literal),
            Some(Token::Word(word)) if ["true", "false"].iter().any(|truth| word.eq_ignore_ascii_case(truth)) => {
                self.literal().map(Operand::Literal)
            }
            _ => self.path().map(Operand::Column),
        }
    }

    fn path(&mut self) -> Result<Path, String> {
        let mut names = vec![self.name(true)?];
        while self.symbol(".") {
            names.push(self.name(false)?);
        }
        Ok(Path(names))
    }

    fn name(&mut self, first: bool) -> Result<String, String> {
        let name = match self.peek() {
            Some(Token::Name(name)) => name.clone(),
            Some(Token::Word(word)) if !first || !KEYWORDS.iter().any(|known| word.eq_ignore_ascii_case(known)) => {
                word.clone()
            }
            _ => return Err(self.expected("a column")),
        };
        self.next += 1;
        Ok(name)
    }

    fn literal(&mut self) -> Result<Value, String> {
        let value = match self.peek() {
            Some(Token::Number(number)) => Value::Number(number.clone()),
            Some(Token::Text(text)) => Value::String(text.clone()),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            _ => return Err(self.expected("a number, a text in single quotes, `true` or `false`")),
        };
        self.next += 1;
        Ok(value)
    }
}

fn negate(negated: bool, expression: Expression) -> Expression {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("`{word}`"),
        Token::Name(name) => format!("`\"{name}\"`"),
        Token::Number(number) => format!("`{number}`"),
        Token::Text(text) => format!("`'{text}'`"),
        Token::Symbol(symbol) => format!("`{symbol}`"),
    }
}
