//! Template text to pieces: literal text, `{{ … }}` and `{% … %}`.
//!
//! Follows `jinja2/lexer.py` 3.1.6 with `trim_blocks` and `lstrip_blocks` on, as transformers sets them. Whitespace
//! control is settled here, so that nothing after this step knows about it.

use super::{
    SyntaxError,
    literals::{number, unescape},
};

/// Parts of a template in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// Text that is written as it is.
    Text(String),
    /// `{{ … }}`
    Print(Tag),
    /// `{% … %}`
    Block(Tag),
}

/// The inside of a tag.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tag {
    pub(crate) tokens: Vec<Token>,
    /// Line of the template on which the tag starts, from 1.
    pub(crate) line: usize,
    /// Where the tag lies in the template, delimiters included.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Name(String),
    Str(String),
    /// Decimal digits; Python's integers have no largest one.
    Int(String),
    Float(f64),
    Op(&'static str),
}

/// Longest first, as the lexer must try them.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// What `\s` and `str.strip` take for whitespace in Python.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// The template with every line end as `\n` and without its last one, as Jinja2 reads it.
pub(crate) fn normalize_newlines(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// Cuts a template whose line ends are [normalized](normalize_newlines).
pub(crate) fn lex(source: &str) -> Result<Vec<Piece>, SyntaxError> {
    Lexer { source, position: 0, line_starting: true, pieces: Vec::new() }.run()
}

/// Which tag starts somewhere, and what it says about the whitespace before it.
struct Opening {
    at: usize,
    kind: Kind,
    control: Control,
    /// Where the inside of the tag starts.
    inside: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Raw,
    Block,
    Print,
    Comment,
}

#[derive(Clone, Copy, PartialEq)]
enum Control {
    Default,
    Strip,
    Keep,
}

struct Lexer<'a> {
    source: &'a str,
    position: usize,
    /// Whether the last thing read ended with a newline.
    line_starting: bool,
    pieces: Vec<Piece>,
}

impl<'a> Lexer<'a> {
    fn run(mut self) -> Result<Vec<Piece>, SyntaxError> {
        while let Some(opening) = self.next_opening() {
            self.text(opening.at, opening.kind, opening.control);
            self.position = opening.inside;
            match opening.kind {
                Kind::Comment => self.comment(opening.at)?,
                Kind::Raw => self.raw(opening.at)?,
                Kind::Block | Kind::Print => {
                    let line = self.line_of(opening.at);
                    let tokens = self.tokens(opening.kind)?;
                    let tag = Tag { tokens, line, start: opening.at, end: 0 };
                    self.close_tag(opening.kind, tag);
                }
            }
        }
        if self.position < self.source.len() {
            self.pieces.push(Piece::Text(self.source[self.position..].to_owned()));
        }
        Ok(self.pieces)
    }

    fn line_of(&self, position: usize) -> usize {
        1 + self.source[..position].matches('\n').count()
    }

    fn error(&self, position: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line_of(position), message: message.into() }
    }

    fn next_opening(&self) -> Option<Opening> {
        let mut from = self.position;
        loop {
            let at = from + self.source[from..].find('{')?;
            let rest = &self.source[at + 1..];
            let kind = match rest.as_bytes().first() {
                Some(b'%') => Kind::Block,
                Some(b'{') => Kind::Print,
                Some(b'#') => Kind::Comment,
                _ => {
                    from = at + 1;
                    continue;
                }
            };
            let (control, length) = match rest.as_bytes().get(1) {
                Some(b'-') => (Control::Strip, 3),
                Some(b'+') => (Control::Keep, 3),
                _ => (Control::Default, 2),
            };
            let inside = at + length;
            if kind == Kind::Block
                && let Some(end) = raw_begin(&self.source[inside..])
            {
                return Some(Opening { at, kind: Kind::Raw, control, inside: inside + end });
            }
            return Some(Opening { at, kind, control, inside });
        }
    }

    /// The literal text up to `end`, less what the tag that follows strips.
    fn text(&mut self, end: usize, kind: Kind, control: Control) {
        let text = strip_before(&self.source[self.position..end], kind, control, self.line_starting);
        if !text.is_empty() {
            self.pieces.push(Piece::Text(text.to_owned()));
        }
    }

    fn comment(&mut self, start: usize) -> Result<(), SyntaxError> {
        let rest = &self.source[self.position..];
        let end = rest.find("#}").ok_or_else(|| self.error(start, "missing end of comment tag"))?;
        let control = match rest.as_bytes()[..end].last() {
            Some(b'-') => Control::Strip,
            Some(b'+') => Control::Keep,
            _ => Control::Default,
        };
        self.leave(self.position + end + 2, control, Trim::Newline);
        Ok(())
    }

    fn raw(&mut self, start: usize) -> Result<(), SyntaxError> {
        // `{% raw -%}` eats the whitespace behind it; the newline after a plain `{% raw %}` stays.
        let mut from = self.position;
        if self.source[..from].ends_with("-%}") {
            from = self.source.len() - self.source[from..].trim_start_matches(is_space).len();
        }
        let mut search = from;
        loop {
            let at = search
                + self.source[search..].find("{%").ok_or_else(|| self.error(start, "missing end of raw directive"))?;
            let (control, inside) = match self.source.as_bytes().get(at + 2) {
                Some(b'-') => (Control::Strip, at + 3),
                Some(b'+') => (Control::Keep, at + 3),
                _ => (Control::Default, at + 2),
            };
            if let Some((end, after)) = tag_end(&self.source[inside..], "endraw") {
                let text = strip_before(&self.source[from..at], Kind::Block, control, self.line_starting);
                if !text.is_empty() {
                    self.pieces.push(Piece::Text(text.to_owned()));
                }
                self.leave(inside + end, after, Trim::Newline);
                return Ok(());
            }
            search = at + 2;
        }
    }

    fn close_tag(&mut self, kind: Kind, mut tag: Tag) {
        // `position` is at the closing delimiter, with its sign.
        let (control, length) = match self.source.as_bytes()[self.position] {
            b'-' => (Control::Strip, 3),
            b'+' => (Control::Keep, 3),
            _ => (Control::Default, 2),
        };
        tag.end = self.position + length;
        let (piece, trim) = match kind {
            Kind::Print => (Piece::Print(tag), Trim::Nothing),
            _ => (Piece::Block(tag), Trim::Newline),
        };
        self.pieces.push(piece);
        self.leave(self.position + length, control, trim);
    }

    /// Goes on behind a tag that ends at `end`.
    fn leave(&mut self, end: usize, control: Control, trim: Trim) {
        let rest = &self.source[end..];
        let eaten = match control {
            Control::Strip => rest.len() - rest.trim_start_matches(is_space).len(),
            Control::Default if trim == Trim::Newline && rest.starts_with('\n') => 1,
            _ => 0,
        };
        self.position = end + eaten;
        self.line_starting = self.source[..self.position].ends_with('\n');
    }

    /// Tokens up to the closing delimiter, at which `position` is left.
    fn tokens(&mut self, kind: Kind) -> Result<Vec<Token>, SyntaxError> {
        let mut tokens = Vec::new();
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = &self.source[self.position..];
            let Some(first) = rest.chars().next() else {
                return Err(self.error(self.position, "unexpected end of template"));
            };
            // A delimiter closes only outside of brackets: `{{ {'a': {}} }}` is one tag.
            if open.is_empty() && closes(rest, kind) {
                return Ok(tokens);
            }
            if is_space(first) {
                self.position += first.len_utf8();
                continue;
            }
            let (token, length) = if let Some((number, length)) = number(rest, tokens.last()) {
                (number, length)
            } else if first == '_' || first.is_alphanumeric() {
                let length = rest.find(|c: char| !(c == '_' || c.is_alphanumeric())).unwrap_or(rest.len());
                if first.is_numeric() {
                    return Err(self.error(self.position, format!("unexpected `{}`", &rest[..length])));
                }
                (Token::Name(rest[..length].to_owned()), length)
            } else if first == '\'' || first == '"' {
                self.string(rest, first)?
            } else if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
                self.balance(operator, &mut open)?;
                (Token::Op(operator), operator.len())
            } else {
                return Err(self.error(self.position, format!("unexpected character `{first}`")));
            };
            tokens.push(token);
            self.position += length;
        }
    }

    fn balance(&self, operator: &'static str, open: &mut Vec<&'static str>) -> Result<(), SyntaxError> {
        match operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => match open.pop() {
                Some(expected) if expected == operator => {}
                Some(expected) => {
                    return Err(self.error(self.position, format!("unexpected `{operator}`, expected `{expected}`")));
                }
                None => return Err(self.error(self.position, format!("unexpected `{operator}`"))),
            },
            _ => {}
        }
        Ok(())
    }

    fn string(&self, rest: &str, quote: char) -> Result<(Token, usize), SyntaxError> {
        let mut escaped = false;
        for (at, character) in rest.char_indices().skip(1) {
            if escaped {
                escaped = false;
            } else if character == '\\' {
                escaped = true;
            } else if character == quote {
                let text = unescape(&rest[1..at]).map_err(|message| self.error(self.position, message))?;
                return Ok((Token::Str(text), at + 1));
            }
        }
        Err(self.error(self.position, "a string is not closed"))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Trim {
    Newline,
    Nothing,
}

fn strip_before(text: &str, kind: Kind, control: Control, line_starting: bool) -> &str {
    match control {
        Control::Strip => text.trim_end_matches(is_space),
        Control::Default if kind != Kind::Print => {
            let line = text.rfind('\n').map_or(0, |newline| newline + 1);
            let only_space = !text[line..].is_empty() && text[line..].chars().all(is_space);
            if (line > 0 || line_starting) && only_space { &text[..line] } else { text }
        }
        _ => text,
    }
}

/// Length of ` raw -%}` at the start of `inside`, if that is what stands there.
fn raw_begin(inside: &str) -> Option<usize> {
    let rest = inside.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = rest.strip_prefix('-').unwrap_or(rest).strip_prefix("%}")?;
    Some(inside.len() - rest.len())
}

/// Length of ` name +%}` at the start of `inside`, and its sign.
fn tag_end(inside: &str, name: &str) -> Option<(usize, Control)> {
    let rest = inside.trim_start_matches(is_space).strip_prefix(name)?.trim_start_matches(is_space);
    let (control, rest) = match rest.as_bytes().first()? {
        b'-' => (Control::Strip, &rest[1..]),
        b'+' => (Control::Keep, &rest[1..]),
        _ => (Control::Default, rest),
    };
    let rest = rest.strip_prefix("%}")?;
    Some((inside.len() - rest.len(), control))
}

fn closes(rest: &str, kind: Kind) -> bool {
    match kind {
        Kind::Print => rest.starts_with("}}") || rest.starts_with("-}}"),
        _ => rest.starts_with("%}") || rest.starts_with("-%}") || rest.starts_with("+%}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let pieces = lex(&normalize_newlines(source)).unwrap();
        pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) => text,
                Piece::Print(_) => "{{}}".to_owned(),
                Piece::Block(_) => "{%%}".to_owned(),
            })
            .collect()
    }

    fn tokens(source: &str) -> Vec<Token> {
        let pieces = lex(&format!("{{{{ {source} }}}}")).unwrap();
        let [Piece::Print(tag)] = pieces.as_slice() else { panic!("{pieces:?}") };
        tag.tokens.clone()
    }

    #[test]
    fn blocks_take_their_line_with_them() {
        assert_eq!(texts("a\n  {% if x %}\n  b\n  {% endif %}\nc"), ["a\n", "{%%}", "  b\n", "{%%}", "c"]);
        assert_eq!(texts("a\n  {{ x }}\nb"), ["a\n  ", "{{}}", "\nb"]);
        assert_eq!(texts("  {%+ if x +%}\n"), ["  ", "{%%}"]);
        assert_eq!(texts("  {%+ if x +%}\nb"), ["  ", "{%%}", "\nb"]);
    }

    #[test]
    fn signs_strip_whitespace() {
        assert_eq!(texts("a \n {%- if x -%} \n b"), ["a", "{%%}", "b"]);
        assert_eq!(texts("a {{- x -}} b"), ["a", "{{}}", "b"]);
        assert_eq!(texts("a {#- note -#} b{# - #}\nc"), ["a", "b", "c"]);
    }

    #[test]
    fn raw_text_is_text() {
        assert_eq!(texts("{% raw %}{{ x }}{% endraw %}\n!"), ["{{ x }}", "!"]);
        assert_eq!(texts("a {%- raw -%} {% x {%- endraw -%} b"), ["a", "{% x", "b"]);
    }

    #[test]
    fn line_ends_are_newlines_and_the_last_one_goes() {
        assert_eq!(texts("a\r\nb\rc\r\n"), ["a\nb\nc"]);
        assert_eq!(tokens("'a\nb'"), [Token::Str("a\nb".to_owned())]);
    }

    #[test]
    fn delimiters_in_brackets_and_strings_do_not_close() {
        assert_eq!(texts("{{ {'a': {}} }}!"), ["{{}}", "!"]);
        assert_eq!(texts("{{ '}}' }}!"), ["{{}}", "!"]);
    }

    #[test]
    fn numbers() {
        let int = |text: &str| Token::Int(text.to_owned());
        assert_eq!(tokens("1_000"), [int("1000")]);
        assert_eq!(tokens("0x1F"), [int("31")]);
        assert_eq!(tokens("00"), [int("0")]);
        assert_eq!(tokens("1.5e-3"), [Token::Float(0.0015)]);
        assert_eq!(tokens("2e3"), [Token::Float(2000.0)]);
        assert_eq!(tokens("a.0.1").last(), Some(&int("1")));
        assert_eq!(tokens("1.x"), [int("1"), Token::Op("."), Token::Name("x".to_owned())]);
    }

    #[test]
    fn escapes_are_pythons() {
        let string = |text: &str| vec![Token::Str(text.to_owned())];
        assert_eq!(tokens(r"'\n\t\'\x41\u00e9\101\d'"), string("\n\t'AéA\\d"));
        assert_eq!(tokens("'é'"), string("é"));
    }

    #[test]
    fn damage_is_an_error_with_a_line() {
        for (source, line) in [("\n{{ 'a }}", 2), ("{% if", 1), ("\n\n{# a", 3), ("{{ ) }}", 1), ("{{ (] }}", 1)] {
            assert_eq!(lex(source).unwrap_err().line, line, "{source:?}");
        }
    }
}
