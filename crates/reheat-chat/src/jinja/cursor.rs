//! Going through the tokens of one tag.

use super::{SyntaxError, lexer::Token};

/// Reads the tokens of one tag.
pub(super) struct Parser<'a> {
    tokens: &'a [Token],
    pub(super) position: usize,
    line: usize,
    /// Brackets and operators that are open.
    pub(super) depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token], line: usize) -> Self {
        Self { tokens, position: 0, line, depth: 0 }
    }

    pub(super) fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line, message: message.into() }
    }

    pub(super) fn at_end(&self) -> bool {
        self.position == self.tokens.len()
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.position)
    }

    pub(super) fn peek_second(&self) -> Option<&'a Token> {
        self.tokens.get(self.position + 1)
    }

    pub(super) fn skip_op(&mut self, operator: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Op(found)) if *found == operator);
        self.position += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.position += usize::from(found);
        found
    }

    pub(super) fn is_op(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn expect_op(&mut self, operator: &str) -> Result<(), SyntaxError> {
        if self.skip_op(operator) { Ok(()) } else { Err(self.unexpected(&format!("`{operator}`"))) }
    }

    pub(super) fn expect_name(&mut self) -> Result<&'a str, SyntaxError> {
        match self.peek() {
            Some(Token::Name(name)) => {
                self.position += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub(super) fn expect_end(&self) -> Result<(), SyntaxError> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected("the end of the tag")) }
    }

    pub(super) fn unexpected(&self, expected: &str) -> SyntaxError {
        let found = match self.peek() {
            None => "the end of the tag".to_owned(),
            Some(Token::Name(name)) => format!("`{name}`"),
            Some(Token::Str(_)) => "a string".to_owned(),
            Some(Token::Int(_) | Token::Float(_)) => "a number".to_owned(),
            Some(Token::Op(operator)) => format!("`{operator}`"),
        };
        self.error(format!("unexpected {found}, expected {expected}"))
    }
}
