//! Jinja2 statements to MiniJinja statements.

use std::fmt::Write;

use super::{
    SyntaxError,
    cursor::Parser,
    expression::{Kind, Translated, string_code},
    lexer::{Piece, Tag, Token},
};

/// Statements within statements, and branches of one `if`, before a template is refused.
const MAX_OPEN: usize = 60;
const MAX_BRANCHES: usize = 200;

/// Writes the translated template.
pub(super) struct Translator {
    code: String,
    line: usize,
    /// Statements that are open, innermost last, with the line they started on.
    open: Vec<(&'static str, usize)>,
    generation_blocks: usize,
    /// Branches of the `if` at hand.
    branches: usize,
    /// Loops with an `else` that are left early somewhere, by the place of their tag in the template.
    left_loops: Vec<usize>,
    /// For each open loop, the number of its flag if it needs one.
    flags: Vec<Option<usize>>,
    /// Names that a macro or a loop has for something of its own.
    declared: Vec<String>,
}

/// What a macro gets in Jinja2 beside its parameters, and does not get here.
const MACRO_EXTRAS: [&str; 2] = ["varargs", "kwargs"];

impl Translator {
    pub(super) fn new() -> Self {
        Self {
            code: String::new(),
            line: 1,
            open: Vec::new(),
            generation_blocks: 0,
            branches: 0,
            left_loops: Vec::new(),
            flags: Vec::new(),
            declared: Vec::new(),
        }
    }

    pub(super) fn translate(mut self, pieces: &[Piece]) -> Result<(String, usize), SyntaxError> {
        self.left_loops = left_loops(pieces);
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(text),
                Piece::Print(tag) => {
                    self.check_macro_extras(tag)?;
                    let mut parser = Parser::new(&tag.tokens, tag.line);
                    let value = parser.tuple(&[], Parser::expression)?;
                    parser.expect_end()?;
                    self.tag("{{", &value.code, "}}", tag);
                }
                Piece::Block(tag) => self.block(tag)?,
            }
        }
        match self.open.last() {
            Some((name, line)) => Err(SyntaxError { line: *line, message: format!("`{name}` is not closed") }),
            None => Ok((self.code, self.generation_blocks)),
        }
    }

    /// Fails where a macro reads its surplus arguments.
    fn check_macro_extras(&self, tag: &Tag) -> Result<(), SyntaxError> {
        if !self.open.iter().any(|(open, _)| *open == "macro") {
            return Ok(());
        }
        for (index, token) in tag.tokens.iter().enumerate() {
            let Token::Name(name) = token else { continue };
            let is_attribute = index > 0 && tag.tokens[index - 1] == Token::Op(".");
            let is_argument = tag.tokens.get(index + 1) == Some(&Token::Op("="));
            if MACRO_EXTRAS.contains(&name.as_str()) && !is_attribute && !is_argument && !self.declared.contains(name) {
                return Err(SyntaxError { line: tag.line, message: format!("`{name}` in a macro is not supported") });
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        // From a raw block can come what would start a tag, and a tag may follow a brace.
        if ["{{", "{%", "{#"].iter().any(|start| text.contains(start)) || text.ends_with('{') {
            let _ = write!(self.code, "{{{{ {} }}}}", string_code(text));
        } else {
            self.code.push_str(text);
            self.line += text.matches('\n').count();
        }
    }

    /// Writes a tag on the line it has in the template, so that errors name that line.
    fn tag(&mut self, start: &str, code: &str, end: &str, tag: &Tag) {
        self.code.push_str(start);
        while self.line < tag.line {
            self.code.push('\n');
            self.line += 1;
        }
        let _ = write!(self.code, " {code} {end}");
    }

    fn statement(&mut self, code: &str, tag: &Tag) {
        self.tag("{%", code, "%}", tag);
    }

    fn open(&mut self, name: &'static str, code: &str, tag: &Tag) -> Result<(), SyntaxError> {
        if self.open.len() == MAX_OPEN {
            return Err(SyntaxError { line: tag.line, message: format!("statements nest more than {MAX_OPEN} deep") });
        }
        self.open.push((name, tag.line));
        self.branches = 0;
        self.statement(code, tag);
        Ok(())
    }

    /// Whether the innermost open statement is one of `names`, which the tag `name` may stand in or close.
    fn expect_open(&self, name: &str, names: &[&str], tag: &Tag) -> Result<&'static str, SyntaxError> {
        let error = |message| SyntaxError { line: tag.line, message };
        match self.open.last() {
            Some((open, _)) if names.contains(open) => Ok(open),
            Some((open, line)) => Err(error(format!("unexpected `{name}`: `{open}` of line {line} is still open"))),
            None => Err(error(format!("unexpected `{name}`: nothing is open"))),
        }
    }

    fn block(&mut self, tag: &Tag) -> Result<(), SyntaxError> {
        self.check_macro_extras(tag)?;
        let mut parser = Parser::new(&tag.tokens, tag.line);
        let name = match tag.tokens.first() {
            Some(Token::Name(name)) => name.as_str(),
            _ => return Err(parser.unexpected("a statement")),
        };
        parser.skip_name(name);
        let opens = matches!(
            name,
            "for"
                | "if"
                | "elif"
                | "else"
                | "macro"
                | "call"
                | "filter"
                | "with"
                | "block"
                | "autoescape"
                | "generation"
        );
        match name {
            "for" => self.for_loop(&mut parser, tag)?,
            "if" => {
                let test = parser.tuple(&[], Parser::without_condition)?;
                self.open("if", &format!("if {}", test.code), tag)?;
            }
            "elif" => {
                self.expect_open(name, &["if"], tag)?;
                self.branches += 1;
                if self.branches > MAX_BRANCHES {
                    return Err(parser.error(format!("an `if` has more than {MAX_BRANCHES} branches")));
                }
                let test = parser.tuple(&[], Parser::without_condition)?;
                self.statement(&format!("elif {}", test.code), tag);
            }
            "else" => {
                // After it, only the end may come.
                let name = match self.expect_open(name, &["if", "for"], tag)? {
                    "if" => "else of if",
                    _ => "else of for",
                };
                self.open.pop();
                self.open.push((name, tag.line));
                match self.flags.last().copied().flatten() {
                    Some(flag) if name == "else of for" => {
                        self.statement(&format!("set __else{flag}.due = false"), tag);
                        self.statement("endfor", tag);
                        self.statement(&format!("if __else{flag}.due"), tag);
                    }
                    _ => self.statement("else", tag),
                }
            }
            "set" => self.set(&mut parser, tag)?,
            "macro" => {
                let macro_name = parser.expect_name()?;
                let signature = Signature::parse(&mut parser)?;
                self.open("macro", &format!("macro {macro_name}({})", signature.code), tag)?;
                self.set_defaults(signature, tag);
            }
            "call" => self.call(&mut parser, tag)?,
            "filter" => {
                let mut filters = parser.filter()?;
                while parser.skip_op("|") {
                    let _ = write!(filters, "|{}", parser.filter()?);
                }
                self.open("filter", &format!("filter {filters}"), tag)?;
            }
            "with" => {
                let mut assignments = Vec::new();
                while !parser.at_end() && !parser.is_op(":") {
                    if !assignments.is_empty() {
                        parser.expect_op(",")?;
                    }
                    let target = target(&mut parser)?;
                    parser.expect_op("=")?;
                    assignments.push((target, parser.expression()?.code));
                }
                self.with(&assignments, tag)?;
            }
            "block" => {
                let block = parser.expect_name()?;
                let scoped = parser.skip_name("scoped");
                let _ = parser.skip_name("required");
                // In Jinja2 it doesn't see the variables of what it stands in.
                if !scoped && self.open.iter().any(|(open, _)| !matches!(*open, "if" | "else of if" | "block")) {
                    return Err(parser.error("`block` within another statement is not supported without `scoped`"));
                }
                self.open("block", &format!("block {block}"), tag)?;
            }
            "autoescape" => {
                if parser.expression()?.code != "false" {
                    return Err(parser.error("`autoescape` is not supported: what is written to a chat is not HTML"));
                }
                self.open("autoescape", "if true", tag)?;
            }
            "generation" => {
                self.generation_blocks += 1;
                self.open("generation", "call __generation()", tag)?;
            }
            "print" => {
                while !parser.at_end() {
                    let value = parser.expression()?;
                    self.tag("{{", &value.code, "}}", tag);
                    if !parser.skip_op(",") {
                        break;
                    }
                }
            }
            "break" | "continue" => {
                let in_loop = self.open.iter().any(|(open, _)| *open == "for");
                if !in_loop {
                    return Err(parser.error(format!("`{name}` stands outside of a loop")));
                }
                self.statement(name, tag);
            }
            // transformers gives its templates no others to load, and fails where one asks for it.
            "include" | "import" | "from" | "extends" => {
                self.tag("{{", "__no_other_templates()", "}}", tag);
                return Ok(());
            }
            _ => {
                self.end(name, &mut parser, tag)?;
                return Ok(());
            }
        }
        if opens {
            let _ = parser.skip_op(":");
        }
        parser.expect_end()
    }

    fn end(&mut self, name: &str, parser: &mut Parser<'_>, tag: &Tag) -> Result<(), SyntaxError> {
        let (names, code): (&[&str], &str) = match name {
            "endif" => (&["if", "else of if"], "endif"),
            "endfor" => (&["for", "else of for"], "endfor"),
            "endset" => (&["set"], "endset"),
            "endmacro" => (&["macro"], "endmacro"),
            "endcall" => (&["call"], "endcall"),
            "endfilter" => (&["filter"], "endfilter"),
            "endwith" => (&["with", "with of several"], "endwith"),
            "endblock" => (&["block"], "endblock"),
            "endautoescape" => (&["autoescape"], "endif"),
            "endgeneration" => (&["generation"], "endcall"),
            _ => return Err(parser.error(format!("unknown tag `{name}`"))),
        };
        let open = self.expect_open(name, names, tag)?;
        self.open.pop();
        let flag = if name == "endfor" { self.flags.pop().flatten() } else { None };
        let code = match open {
            "else of for" if flag.is_some() => "endif",
            "with of several" => "endwith %}{% endwith",
            _ => code,
        };
        if name == "endblock" && !parser.at_end() {
            let _ = parser.expect_name()?;
        }
        parser.expect_end()?;
        self.statement(code, tag);
        Ok(())
    }

    /// All values are worked out before there is any of the variables, where MiniJinja goes from one to the next.
    fn with(&mut self, assignments: &[(String, String)], tag: &Tag) -> Result<(), SyntaxError> {
        let list = |parts: Vec<String>| format!("with {}", parts.join(", "));
        if assignments.len() < 2 {
            let parts = assignments.iter().map(|(target, value)| format!("{target} = {value}")).collect();
            return self.open("with", &list(parts), tag);
        }
        let values = assignments.iter().enumerate().map(|(index, (_, value))| format!("__with{index} = {value}"));
        let targets = assignments.iter().enumerate().map(|(index, (target, _))| format!("{target} = __with{index}"));
        self.open("with of several", &list(values.collect()), tag)?;
        self.statement(&list(targets.collect()), tag);
        Ok(())
    }

    /// Gives parameters the defaults that MiniJinja would work out where no other parameter is known.
    fn set_defaults(&mut self, signature: Signature, tag: &Tag) {
        for (name, default) in signature.defaults {
            self.statement(&format!("if {name} is undefined"), tag);
            self.statement(&format!("set {name} = __keep({default})"), tag);
            self.statement("endif", tag);
        }
        self.declared.extend(signature.names);
    }

    fn for_loop(&mut self, parser: &mut Parser<'_>, tag: &Tag) -> Result<(), SyntaxError> {
        let target = target(parser)?;
        self.declared.extend(target.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
        if !parser.skip_name("in") {
            return Err(parser.unexpected("`in`"));
        }
        let items = parser.tuple(&["recursive"], Parser::without_condition)?;
        let mut code = format!("for {target} in __iter({})", items.code);
        if parser.skip_name("if") {
            let _ = write!(code, " if {}", parser.expression()?.code);
        }
        if parser.skip_name("recursive") {
            code.push_str(" recursive");
        }
        let flag = self.left_loops.contains(&tag.start).then_some(tag.start);
        self.flags.push(flag);
        if let Some(flag) = flag {
            self.statement(&format!("set __else{flag} = namespace(due=true)"), tag);
        }
        self.open("for", &code, tag)?;
        Ok(())
    }

    fn set(&mut self, parser: &mut Parser<'_>, tag: &Tag) -> Result<(), SyntaxError> {
        let target = target(parser)?;
        if parser.skip_op("=") {
            let value = parser.tuple(&[], Parser::expression)?;
            // transformers forbids these when they are reached: in Python they lead to the interpreter's insides.
            if target.contains("._") {
                self.tag("{{", &format!("__unsafe({})", string_code(&target)), "}}", tag);
                return Ok(());
            }
            let namespace = target.split_once('.').filter(|_| !target.starts_with('('));
            let code = match (value.kind, namespace) {
                // MiniJinja sees that a macro or a call block uses a namespace only where it is read.
                (_, Some((namespace, _))) => format!("__keep({}, {namespace})", value.code),
                (Kind::Str(_) | Kind::Number, _) => value.code,
                // Values that grow from step to step are kept from nesting without end.
                _ => format!("__keep({})", value.code),
            };
            self.statement(&format!("set {target} = {code}"), tag);
            return Ok(());
        }
        let mut code = format!("set {target}");
        while parser.skip_op("|") {
            let _ = write!(code, "|{}", parser.filter()?);
        }
        self.open("set", &code, tag)?;
        Ok(())
    }

    fn call(&mut self, parser: &mut Parser<'_>, tag: &Tag) -> Result<(), SyntaxError> {
        let signature = if parser.is_op("(") { Some(Signature::parse(parser)?) } else { None };
        match parser.expression()? {
            Translated { code, kind: Kind::Call } => {
                let parameters =
                    signature.as_ref().map_or_else(String::new, |signature| format!("({})", signature.code));
                self.open("call", &format!("call{parameters} {code}"), tag)?;
                if let Some(signature) = signature {
                    self.set_defaults(signature, tag);
                }
                Ok(())
            }
            _ => Err(parser.error("`call` needs a call")),
        }
    }
}

/// `a`, `ns.a`, `a, b` or `(a, b)`.
fn target(parser: &mut Parser<'_>) -> Result<String, SyntaxError> {
    let mut items = Vec::new();
    let mut is_tuple = false;
    loop {
        let at_end = parser.at_end() || parser.is_op("=") || parser.is_op("|") || parser.is_op(")");
        if is_tuple && at_end {
            break;
        }
        if parser.skip_op("(") {
            items.push(format!("({})", target(parser)?));
            parser.expect_op(")")?;
        } else {
            let mut name = parser.expect_name()?.to_owned();
            if parser.skip_op(".") {
                let attribute = parser.expect_name()?;
                name.push('.');
                name.push_str(attribute);
            }
            items.push(name);
        }
        if !parser.skip_op(",") {
            break;
        }
        is_tuple = true;
    }
    Ok(if is_tuple { format!("({},)", items.join(", ")) } else { items.join(", ") })
}

/// The parameters of a macro or a call block.
struct Signature {
    code: String,
    names: Vec<String>,
    /// Parameters whose default is more than a literal, and the default.
    defaults: Vec<(String, String)>,
}

impl Signature {
    fn parse(parser: &mut Parser<'_>) -> Result<Self, SyntaxError> {
        parser.expect_op("(")?;
        let mut signature = Self { code: String::new(), names: Vec::new(), defaults: Vec::new() };
        let mut has_default = false;
        while !parser.skip_op(")") {
            if !signature.names.is_empty() {
                parser.expect_op(",")?;
                signature.code.push_str(", ");
            }
            let name = parser.expect_name()?.to_owned();
            signature.code.push_str(&name);
            if parser.skip_op("=") {
                has_default = true;
                let default = parser.expression()?;
                let is_literal = matches!(default.kind, Kind::Str(_) | Kind::Number)
                    || matches!(default.code.as_str(), "true" | "false" | "none" | "[]" | "{}");
                // To MiniJinja, a parameter without a value is one that is undefined.
                let _ = write!(signature.code, "={}", if is_literal { &default.code } else { "__undefined" });
                if !is_literal {
                    signature.defaults.push((name.clone(), default.code));
                }
            } else if has_default {
                return Err(parser.error(format!("parameter `{name}` without a default follows one that has one")));
            }
            signature.names.push(name);
        }
        Ok(signature)
    }
}

/// Loops with an `else` and a `break` or `continue` of their own.
///
/// Jinja2 runs the `else` unless the body was gone through to its end at least once, where MiniJinja runs it unless
/// there was something to go through. Only these loops can tell the difference, and get a flag.
fn left_loops(pieces: &[Piece]) -> Vec<usize> {
    struct Loop {
        start: usize,
        has_else: bool,
        is_left: bool,
        /// Depth of `if` blocks within the loop, whose `else` is theirs.
        ifs: usize,
    }
    let mut open: Vec<Loop> = Vec::new();
    let mut found = Vec::new();
    for piece in pieces {
        let Piece::Block(tag) = piece else { continue };
        let Some(Token::Name(name)) = tag.tokens.first() else { continue };
        if name == "for" {
            open.push(Loop { start: tag.start, has_else: false, is_left: false, ifs: 0 });
            continue;
        }
        let Some(inner) = open.last_mut() else { continue };
        match name.as_str() {
            "if" => inner.ifs += 1,
            "endif" => inner.ifs = inner.ifs.saturating_sub(1),
            "else" if inner.ifs == 0 => inner.has_else = true,
            "break" | "continue" => inner.is_left = true,
            "endfor" => {
                if inner.has_else && inner.is_left {
                    found.push(inner.start);
                }
                open.pop();
            }
            _ => {}
        }
    }
    found
}
