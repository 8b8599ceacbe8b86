//! A template without its `{% generation %}` markers.

use super::{
    SyntaxError,
    lexer::{Piece, Tag, Token, lex, normalize_newlines},
};

/// The template that renders the same text and marks nothing.
///
/// The tags go, with the whitespace that they strip. Where taking them out would change what a neighbouring tag
/// strips, they become an `{% if true %}` that is open as long.
pub(crate) fn without_generation_markers(source: &str) -> Result<String, SyntaxError> {
    let text = normalize_newlines(source);
    let pieces = lex(&text)?;
    if !pieces.iter().any(is_marker) {
        return Ok(source.to_owned());
    }
    let mut removed = replace(&text, &pieces, |_, _| String::new());
    if removed.ends_with('\n') {
        // The last line end of a template doesn't count, and the one that is last now must.
        removed.push('\n');
    }
    let same = lex(&normalize_newlines(&removed)).is_ok_and(|removed| merged(&removed) == merged(&pieces));
    Ok(if same {
        removed
    } else {
        replace(&text, &pieces, |tag, name| {
            let tag = &text[tag.start..tag.end];
            if name == "generation" { tag.replacen(name, "if true", 1) } else { tag.replacen(name, "endif", 1) }
        })
    })
}

fn marker(piece: &Piece) -> Option<(&Tag, &str)> {
    match piece {
        Piece::Block(tag) => match tag.tokens.as_slice() {
            [Token::Name(name)] if name == "generation" || name == "endgeneration" => Some((tag, name)),
            _ => None,
        },
        _ => None,
    }
}

fn is_marker(piece: &Piece) -> bool {
    marker(piece).is_some()
}

/// The template with `with` in place of each marker. An empty string takes the stripped whitespace along.
fn replace(text: &str, pieces: &[Piece], with: impl Fn(&Tag, &str) -> String) -> String {
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    for (tag, name) in pieces.iter().filter_map(marker) {
        let replacement = with(tag, name);
        let (mut start, mut end) = (tag.start, tag.end);
        if replacement.is_empty() {
            (start, end) = with_stripped_space(text, done, start, end);
        }
        result.push_str(&text[done..start]);
        result.push_str(&replacement);
        done = end;
    }
    result.push_str(&text[done..]);
    result
}

/// The range of a tag with the whitespace that its signs, or `trim_blocks` and `lstrip_blocks`, take away.
fn with_stripped_space(text: &str, done: usize, start: usize, end: usize) -> (usize, usize) {
    let is_space = super::lexer::is_space;
    let tag = &text[start..end];
    let before = &text[done..start];
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    let start = if tag.starts_with("{%-") {
        done + before.trim_end_matches(is_space).len()
    } else if !tag.starts_with("{%+")
        && (line > 0 || text[..done].ends_with('\n') || done == 0)
        && before[line..].chars().all(is_space)
    {
        done + line
    } else {
        start
    };
    let after = &text[end..];
    let end = if tag.ends_with("-%}") {
        end + after.len() - after.trim_start_matches(is_space).len()
    } else if !tag.ends_with("+%}") && after.starts_with('\n') {
        end + 1
    } else {
        end
    };
    (start, end)
}

/// Pieces without markers, texts joined and tags without their places.
fn merged(pieces: &[Piece]) -> Vec<Piece> {
    let mut result: Vec<Piece> = Vec::new();
    let plain = |tag: &Tag| Tag { line: 0, start: 0, end: 0, tokens: tag.tokens.clone() };
    for piece in pieces.iter().filter(|piece| !is_marker(piece)) {
        match (result.last_mut(), piece) {
            (Some(Piece::Text(text)), Piece::Text(more)) => text.push_str(more),
            (_, Piece::Text(text)) => result.push(Piece::Text(text.clone())),
            (_, Piece::Print(tag)) => result.push(Piece::Print(plain(tag))),
            (_, Piece::Block(tag)) => result.push(Piece::Block(plain(tag))),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(without_generation_markers(source).unwrap(), expected);
    }

    #[test]
    fn markers_go_with_the_space_they_strip() {
        check("a {%- generation -%} b {%- endgeneration %} c", "ab c");
        check("a\n  {% generation %}\n{{ x }}\n{% endgeneration %}\nc", "a\n{{ x }}\nc");
        check("{{ 'a' }}{% generation %}{{ x }}{% endgeneration %}", "{{ 'a' }}{{ x }}");
    }

    #[test]
    fn neighbours_keep_what_they_strip() {
        // Without the marker the spaces would stand at the start of a line, where the next tag would strip them.
        let source = "x\n{%+ generation +%}  {% if a %}y{% endif %}{% endgeneration %}";
        check(source, "x\n{%+ if true +%}  {% if a %}y{% endif %}{% endif %}");
    }

    #[test]
    fn other_templates_stay_as_they_are() {
        check("{# generation #}{{ 'generation' }}\r\n", "{# generation #}{{ 'generation' }}\r\n");
    }
}
