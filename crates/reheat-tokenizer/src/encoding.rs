use std::ops::Range;

/// The tokens of one text.
///
/// `ids` and `offsets` have the same length. [`Tokenizer::tokens`](crate::Tokenizer::tokens) gives the vocabulary
/// entries; they aren't stored here because preparing a dataset never looks at them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Bytes of the input that each token stands for.
    ///
    /// A token that is part of a character spans that whole character, so tokens may overlap there. Where the
    /// normalizer joins characters (a letter and its accent), the result belongs to the first of them. A token that
    /// stands for no input, such as an added BOS, has an empty range.
    pub offsets: Vec<Range<usize>>,
}

impl Encoding {
    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The tokens that cover the bytes `span` of the input, as a range of token positions.
    ///
    /// It reaches from the token that holds the first byte to the token that holds the last byte, both included: a
    /// token half inside counts as inside, as in transformers' assistant masks. Bytes without a token (whitespace
    /// that a tokenizer drops) are passed over towards the inside. Empty when no token lies inside.
    #[must_use]
    pub fn token_span(&self, span: &Range<usize>) -> Range<usize> {
        let covers = |offset: &Range<usize>| offset.start < span.end && offset.end > span.start;
        // Offsets ascend, so the first token that ends after the span's start is found by bisection; empty ranges
        // of added tokens sit at the ends of the text and don't disturb the order of `end`.
        let first = self.offsets.partition_point(|offset| offset.end <= span.start);
        let inside = self.offsets[first..].iter().take_while(|offset| offset.start < span.end);
        let last = first + inside.clone().count();
        match self.offsets[first..last].iter().rposition(covers) {
            Some(position) => first..first + position + 1,
            None => first..first,
        }
    }
}
