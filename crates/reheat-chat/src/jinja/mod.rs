//! Jinja2 templates as transformers reads them, for MiniJinja to run.
//!
//! A template is cut into pieces ([`lexer`]), and each tag is translated ([`statements`], [`expression`]) to MiniJinja
//! code with the same meaning. That is where whitespace control, `{% generation %}` blocks and the corners in which
//! the engines differ are dealt with. The engine itself (variables, loops, macros, limits) is MiniJinja's.

pub(crate) mod lexer; // text to pieces and tokens
mod literals; // numbers and strings in a tag
mod cursor; // going through the tokens of a tag
mod expression;
mod statements;
mod markers; // taking generation markers out

pub(crate) use self::markers::without_generation_markers;

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SyntaxError {
    /// Line of the template, from 1.
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// A template that MiniJinja can run.
#[derive(Debug)]
pub(crate) struct Translation {
    pub(crate) code: String,
    /// `{% generation %}` blocks in it.
    pub(crate) generation_blocks: usize,
}

pub(crate) fn translate(source: &str) -> Result<Translation, SyntaxError> {
    let pieces = lexer::lex(&lexer::normalize_newlines(source))?;
    let (code, generation_blocks) = statements::Translator::new().translate(&pieces)?;
    Ok(Translation { code, generation_blocks })
}
